-- For takedowns: which documents were withdrawn or vanished, when and why?
-- grain: (shard_id, document_id)
select
    removed_at,
    reason,
    shard_id,
    document_id
from tombstones
order by removed_at desc, shard_id asc, document_id asc;
