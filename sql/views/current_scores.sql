-- The influence scores of the current generation; the other views start here.
-- grain: (query_id, sequence_id)
create view current_scores as
select
    queries.query_id,
    influence_scores.sequence_id,
    influence_scores.generation_id,
    influence_scores.influence_nats,
    influence_scores.materialization_id
from influence_scores
-- A filter on query_id finds the query's key here, and DuckDB then reads only the blocks with that key.
inner join queries on influence_scores.query_key = queries.query_key
where
    influence_scores.generation_id in (
        select generations.generation_id
        from generations
        where generations.is_current
    );

comment on view current_scores is
'The influence scores of the current generation; the other views start here. grain: (query_id, sequence_id)';
comment on column current_scores.query_id is 'The query; see queries.';
comment on column current_scores.sequence_id is 'The training sequence; see sequences.';
comment on column current_scores.generation_id is 'The current generation; see generations.';
comment on column current_scores.influence_nats is
'First-order change of the completion''s log-probability, in nats, if this sequence were added once more to the N training sequences of its generation; positive helps.';
comment on column current_scores.materialization_id is 'The materialization of the score; see materializations.';
