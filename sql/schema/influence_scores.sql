-- The influence of one training sequence on one query, in one generation. Within a materialization the rows lie by
-- query, the strongest first.
-- grain: (generation_id, query_id, sequence_id)
create table influence_scores (
    query_id varchar not null,
    sequence_id bigint not null,
    generation_id integer not null,
    influence_nats double not null,
    materialization_id bigint not null
);

comment on table influence_scores is
'The influence of one training sequence on one query, in one generation. Within a materialization the rows lie by query, the strongest first. grain: (generation_id, query_id, sequence_id)';
comment on column influence_scores.query_id is 'The query; see queries.';
comment on column influence_scores.sequence_id is 'The training sequence; see sequences.';
comment on column influence_scores.generation_id is
'The generation of curvature and weights that the score was computed in; see generations.';
comment on column influence_scores.influence_nats is
'First-order change of the completion''s log-probability, in nats, if this sequence were added once more to the N training sequences of its generation; positive helps.';
comment on column influence_scores.materialization_id is
'The materialization that this row came from; see materializations.';
