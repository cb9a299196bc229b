-- The part of a score that goes through one layer; kept for the strongest sequences of each query, of either sign.
-- The parts add up to the score.
-- grain: (generation_id, query_id, sequence_id, module_name)
create table layer_influence (
    query_id varchar not null,
    sequence_id bigint not null,
    generation_id integer not null,
    module_name varchar not null,
    influence_nats double not null,
    materialization_id bigint not null
);

comment on table layer_influence is
'The part of a score that goes through one layer; kept for the strongest sequences of each query, of either sign. The parts add up to the score. grain: (generation_id, query_id, sequence_id, module_name)';
comment on column layer_influence.query_id is 'The query; see queries.';
comment on column layer_influence.sequence_id is 'The training sequence; see sequences.';
comment on column layer_influence.generation_id is
'The generation of curvature and weights that the score was computed in; see generations.';
comment on column layer_influence.module_name is 'The layer; see modules.';
comment on column layer_influence.influence_nats is
'The layer''s part of: first-order change of the completion''s log-probability, in nats, if this sequence were added once more to the N training sequences of its generation; positive helps.';
comment on column layer_influence.materialization_id is
'The materialization that this row came from; see materializations.';
