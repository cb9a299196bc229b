-- The rows of one artifact's queries.parquet ($paths), marked as its own ($materialization_id).
-- grain: (query_id)
insert into queries by name
select
    query_id,
    query_set_id,
    source_row,
    prompt,
    completion,
    metadata,
    prompt_tokens,
    completion_tokens,
    log_probability_nats,
    gradient_norm,
    $materialization_id as materialization_id
from read_parquet($paths, hive_partitioning = false)
order by source_row;
