-- The rows of one artifact's layer_influence.parquet ($paths), marked as its own ($materialization_id).
-- grain: (generation_id, query_id, sequence_id, module_name)
insert into layer_influence by name
select
    query_id,
    sequence_id,
    generation_id,
    module_name,
    influence_nats,
    $materialization_id as materialization_id
from read_parquet($paths, hive_partitioning = false)
order by query_id, sequence_id, module_name;
