-- The rows of one artifact's influence_scores.parquet ($paths), marked as its own ($materialization_id).
-- grain: (generation_id, query_id, sequence_id)
insert into influence_scores by name
select
    query_id,
    sequence_id,
    generation_id,
    influence_nats,
    $materialization_id as materialization_id
from read_parquet($paths, hive_partitioning = false)
order by query_id asc, influence_nats desc;
