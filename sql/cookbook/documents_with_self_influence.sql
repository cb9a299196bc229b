-- Which documents have the most influence on themselves for each token? This is no search for damaged text: on the
-- demo the loss finds it, and self-influence does not. Needs `scores.self_influence`.
-- $count: how many rows
-- $fewest_tokens: leave out documents with fewer tokens than this
-- grain: (shard_id, document_id)
select
    nats_per_token,
    self_influence_nats,
    tokens,
    title,
    external_id,
    source,
    shard_id,
    document_id
from self_influence_by_document
where tokens >= $fewest_tokens::bigint
order by nats_per_token desc, shard_id asc, document_id asc
limit $count::bigint;
