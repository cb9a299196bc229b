-- What was withdrawn or vanished (new_tombstones, registered by the loader).
-- grain: (shard_id, document_id)
insert into tombstones by name
select
    shard_id,
    document_id,
    reason,
    removed_at
from new_tombstones
order by removed_at, shard_id, document_id;
