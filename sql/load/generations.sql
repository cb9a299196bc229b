-- The rows of one artifact's generations.parquet ($paths), marked as its own ($materialization_id).
-- grain: (generation_id)
insert into generations by name
select
    generation_id,
    weights_hash,
    model_path,
    tokenizer_hash,
    dtype,
    fisher,
    damping_scale,
    sequence_length_tokens,
    training_sequences,
    training_tokens,
    attributed_parameters,
    total_parameters,
    created_at,
    false as is_current,
    $materialization_id as materialization_id
from read_parquet($paths, hive_partitioning = false)
order by generation_id;
