-- The rows of one artifact's documents.parquet ($paths), marked as its own ($materialization_id).
-- grain: (shard_id, document_id)
insert into documents by name
select
    document_id,
    shard_id,
    source_row,
    external_id,
    title,
    source,
    licence,
    author,
    date,
    url,
    metadata,
    characters,
    left(text, 200) as preview,
    $materialization_id as materialization_id
from read_parquet($paths, hive_partitioning = false)
order by source_row;
