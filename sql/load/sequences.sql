-- The rows of one artifact's sequences.parquet ($paths), marked as its own ($materialization_id).
-- grain: (sequence_id)
insert into sequences by name
select
    sequence_id,
    shard_id,
    sequence_index,
    tokens,
    text,
    $materialization_id as materialization_id
from read_parquet($paths, hive_partitioning = false)
order by sequence_index;
