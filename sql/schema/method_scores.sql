-- A score of a training sequence for a query by a method other than the main one; some methods score some sequences
-- only. current_scores_of(name) has one method's.
-- grain: (generation_id, query_id, sequence_id, method)
create table method_scores (
    query_id varchar not null,
    sequence_id bigint not null,
    generation_id integer,
    method varchar not null,
    unit varchar,
    score double not null,
    materialization_id bigint not null
);

comment on table method_scores is
'A score of a training sequence for a query by a method other than the main one; some methods score some sequences only. current_scores_of(name) has one method''s. grain: (generation_id, query_id, sequence_id, method)';
comment on column method_scores.query_id is 'The query; see queries.';
comment on column method_scores.sequence_id is 'The training sequence; see sequences.';
comment on column method_scores.generation_id is
'The generation of curvature and weights that the score was computed beside; see generations. Null where the method uses no curvature.';
comment on column method_scores.method is 'The method, such as gradient_dot.';
comment on column method_scores.unit is
'nats, if the score is the change of the completion''s log-probability by one more copy of the sequence; the name of another unit; or null if scores compare only with one another.';
comment on column method_scores.score is 'The method''s score, in that unit; positive helps.';
comment on column method_scores.materialization_id is
'The materialization that this row came from; see materializations.';
