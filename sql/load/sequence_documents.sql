-- The rows of one artifact's sequence_documents.parquet ($paths), marked as its own ($materialization_id).
-- grain: (sequence_id, token_start)
insert into sequence_documents by name
select
    sequence_id,
    document_id,
    token_start,
    token_end,
    character_start,
    character_end,
    $materialization_id as materialization_id
from read_parquet($paths, hive_partitioning = false)
order by sequence_id, token_start;
