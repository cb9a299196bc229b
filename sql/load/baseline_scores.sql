-- The rows of one artifact's baseline_scores.parquet ($paths), marked as its own ($materialization_id).
-- grain: (generation_id, query_id, sequence_id, method)
insert into baseline_scores by name
select
    query_id,
    sequence_id,
    generation_id,
    method,
    score,
    $materialization_id as materialization_id
from read_parquet($paths, hive_partitioning = false)
order by query_id asc, method asc, score desc;
