-- For researchers: which passages made the model say this? The strongest of one query, with their documents.
-- $query_id: the query, from the table queries
-- $count: how many rows
-- grain: (rank)
select
    rank,
    influence_nats,
    shard_id,
    documents,
    text,
    sequence_id
from strongest($query_id, $count::bigint)
order by rank;
