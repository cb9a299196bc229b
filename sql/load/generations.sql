-- The rows of generations.parquet of many artifacts ($paths), each marked with its artifact by the table new_files,
-- which the loader registers. Columns that may be null may also be missing from the files.
-- grain: (generation_id)
insert into generations by name
with written as (
    select * from generations
    where false
    union all by name
    select *
    from read_parquet($paths, filename = 'loaded_from', union_by_name = true, hive_partitioning = false)
)

select
    written.generation_id,
    written.weights_hash,
    written.model_path,
    written.tokenizer_hash,
    written.dtype,
    written.fisher,
    written.damping_scale,
    written.sequence_length_tokens,
    written.training_sequences,
    written.training_tokens,
    written.attributed_parameters,
    written.total_parameters,
    written.created_at,
    false as is_current,
    0 as member,
    new_files.materialization_id
from written
inner join new_files on written.loaded_from = new_files.path
order by written.generation_id;
