-- For curators: which documents helped one query's completion, or hurt it, whatever seed the model is trained with?
-- Needs an ensemble, `train.members` or `model.members`.
-- $query_id: the query, from the table queries
-- $count: how many rows
-- grain: (shard_id, document_id)
select
    influence_nats,
    low_nats,
    high_nats,
    title,
    external_id,
    source,
    licence,
    sequences,
    shard_id,
    document_id
from ensemble_by_document
where query_id = $query_id and is_certain
order by influence_nats desc, shard_id asc, document_id asc
limit $count::bigint;
