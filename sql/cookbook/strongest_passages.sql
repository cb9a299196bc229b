-- For researchers: which passages made the model say this? The strongest of one query, with their documents, beside the
-- query's noise.
-- $query_id: the query, from the table queries
-- $count: how many rows
-- grain: (rank)
select
    rank,
    influence_nats,
    calibrated_nats,
    is_above_noise,
    shard_id,
    documents,
    text,
    sequence_id,
    sigma_nats
from strongest_with_noise($query_id, $count::bigint)
order by rank;
