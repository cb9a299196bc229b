-- Queries that do not have a score in the current generation for every sequence of a shard.
-- grain: (query_id, shard_id)
with packed as (
    select
        shard_id,
        count(*) as sequences
    from sequences
    group by shard_id
),

wanted as (
    select
        queries.query_id,
        packed.shard_id,
        packed.sequences
    from queries
    cross join packed
),

scored as (
    select
        current_scores.query_id,
        sequences.shard_id,
        count(*) as sequences
    from current_scores
    inner join sequences on current_scores.sequence_id = sequences.sequence_id
    group by current_scores.query_id, sequences.shard_id
)

select
    wanted.query_id,
    wanted.shard_id,
    wanted.sequences,
    coalesce(scored.sequences, 0) as scored_sequences
from wanted
left join scored on wanted.query_id = scored.query_id and wanted.shard_id = scored.shard_id
where wanted.sequences != coalesce(scored.sequences, 0);
