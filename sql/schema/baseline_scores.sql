-- A score of a training sequence for a query by a method other than the main one, for comparison.
-- grain: (generation_id, query_id, sequence_id, method)
create table baseline_scores (
    query_id varchar not null,
    sequence_id bigint not null,
    generation_id integer not null,
    method varchar not null,
    score double not null,
    materialization_id bigint not null
);

comment on table baseline_scores is
'A score of a training sequence for a query by a method other than the main one, for comparison. grain: (generation_id, query_id, sequence_id, method)';
comment on column baseline_scores.query_id is 'The query; see queries.';
comment on column baseline_scores.sequence_id is 'The training sequence; see sequences.';
comment on column baseline_scores.generation_id is
'The generation of curvature and weights that the score was computed beside; see generations.';
comment on column baseline_scores.method is 'The method, such as gradient_dot.';
comment on column baseline_scores.score is 'The method''s score, in its own unit; positive helps.';
comment on column baseline_scores.materialization_id is
'The materialization that this row came from; see materializations.';
