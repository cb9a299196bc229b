-- For curators: which documents have the most influence on themselves for each token, so that the model learned them
-- the least from others? On the demo the loss finds damaged text better. Needs `scores.self_influence`.
-- $count: how many rows
-- $fewest_tokens: leave out documents with fewer tokens than this
-- grain: (shard_id, document_id)
select
    self_influence_by_document.nats_per_token,
    self_influence_by_document.self_influence_nats,
    self_influence_by_document.tokens,
    documents.title,
    documents.external_id,
    documents.source,
    documents.preview,
    documents.shard_id,
    documents.document_id
from self_influence_by_document
inner join documents
    on
        self_influence_by_document.document_id = documents.document_id
        and self_influence_by_document.shard_id = documents.shard_id
where self_influence_by_document.tokens >= $fewest_tokens::bigint
order by
    self_influence_by_document.nats_per_token desc,
    documents.shard_id asc,
    documents.document_id asc
limit $count::bigint;
