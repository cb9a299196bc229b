-- Rows of documents that occur more than once.
-- grain: (shard_id, document_id)
select
    shard_id,
    document_id,
    count(*) as copies
from documents
group by shard_id, document_id
having count(*) > 1;
