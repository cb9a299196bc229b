-- The influence of one training sequence on itself, in one generation. Empty unless scores.self_influence is on.
-- grain: (generation_id, sequence_id)
create table self_influence (
    sequence_id bigint not null,
    generation_id integer not null,
    self_influence_nats double not null,
    materialization_id bigint not null
);

comment on table self_influence is
'The influence of one training sequence on itself, in one generation. Empty unless scores.self_influence is on. grain: (generation_id, sequence_id)';
comment on column self_influence.sequence_id is 'The training sequence; see sequences.';
comment on column self_influence.generation_id is
'The generation of curvature and weights that it was computed in; see generations.';
comment on column self_influence.self_influence_nats is
'First-order change of the sequence''s own log-likelihood, in nats, if it were added once more to the N training sequences of its generation; never negative.';
comment on column self_influence.materialization_id is
'The materialization that this row came from; see materializations.';
