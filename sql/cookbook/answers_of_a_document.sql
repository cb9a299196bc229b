-- For authors and curators: which answers does one document raise most?
-- $document_id: the document, from the table documents
-- $count: how many rows
-- grain: (query_id, shard_id)
select
    queries.prompt,
    queries.completion,
    influence_by_document.influence_nats,
    influence_by_document.sequences,
    influence_by_document.shard_id,
    influence_by_document.query_id
from influence_by_document
inner join queries on influence_by_document.query_id = queries.query_id
where influence_by_document.document_id = $document_id
order by influence_by_document.influence_nats desc, influence_by_document.query_id asc
limit $count::bigint;
