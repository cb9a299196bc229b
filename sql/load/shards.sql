-- The rows of one artifact's shards.parquet ($paths), marked as its own ($materialization_id).
-- grain: (shard_id)
insert into shards by name
select
    shard_id,
    path,
    source_bytes,
    content_hash,
    documents,
    duplicate_documents,
    characters,
    $materialization_id as materialization_id
from read_parquet($paths, hive_partitioning = false)
order by shard_id;
