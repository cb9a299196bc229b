-- For curators: which whole documents are behind one query's completion?
-- $query_id: the query, from the table queries
-- $count: how many rows
-- grain: (shard_id, document_id)
select
    influence_nats,
    title,
    external_id,
    source,
    licence,
    trained_on,
    url,
    sequences,
    shard_id,
    document_id
from influence_by_document
where query_id = $query_id
order by influence_nats desc, shard_id asc, document_id asc
limit $count::bigint;
