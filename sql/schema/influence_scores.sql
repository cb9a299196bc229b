-- The influence of one training sequence on one query, in one generation; current_scores has the query's name.
-- grain: (generation_id, query_key, sequence_id)

-- A query is identified by a key of eight bytes, not by its name: with names, a load takes half as long again, and
-- DuckDB's statistics of a block of rows distinguish names only by their first letters, so that for names that begin
-- alike every block would have to be read. Rows are sorted by query, then by artifact, the strongest first: those of
-- one query are a few blocks among hundreds, and an artifact's number is the same over long runs, which takes no space.
-- Sorted by query and score only, the file was over a quarter larger and one query's answer 10 ms faster.
create table influence_scores (
    query_key ubigint not null,
    sequence_id bigint not null,
    generation_id integer not null,
    influence_nats double not null,
    materialization_id bigint not null
);

comment on table influence_scores is
'The influence of one training sequence on one query, in one generation; current_scores has the query''s name. grain: (generation_id, query_key, sequence_id)';
comment on column influence_scores.query_key is 'The query; see queries.query_key.';
comment on column influence_scores.sequence_id is 'The training sequence; see sequences.';
comment on column influence_scores.generation_id is
'The generation of curvature and weights that the score was computed in; see generations.';
comment on column influence_scores.influence_nats is
'First-order change of the completion''s log-probability, in nats, if this sequence were added once more to the N training sequences of its generation; positive helps.';
comment on column influence_scores.materialization_id is
'The materialization that this row came from; see materializations.';
