-- For researchers: which passages spoke against this completion? Those that lower its probability most.
-- $query_id: the query, from the table queries
-- $count: how many rows
-- grain: (rank_lowest)
select
    rank_lowest,
    influence_nats,
    shard_id,
    text,
    sequence_id
from top_influences
where query_id = $query_id and rank_lowest <= $count::bigint
order by rank_lowest;
