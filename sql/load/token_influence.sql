-- The rows of one artifact's token_influence.parquet ($paths), marked as its own ($materialization_id).
-- grain: (generation_id, query_id, sequence_id, token_position)
insert into token_influence by name
select
    query_id,
    sequence_id,
    generation_id,
    token_position,
    token,
    influence_nats,
    $materialization_id as materialization_id
from read_parquet($paths, hive_partitioning = false)
order by query_id, sequence_id, token_position;
