-- The rows of modules.parquet of many artifacts ($paths), each marked with its artifact by the table new_files,
-- which the loader registers. Columns that may be null may also be missing from the files.
-- grain: (generation_id, module_name)
insert into modules by name
with written as (
    select * from modules
    where false
    union all by name
    select *
    from read_parquet($paths, filename = 'loaded_from', union_by_name = true, hive_partitioning = false)
)

select
    written.generation_id,
    written.module_name,
    written.input_width,
    written.output_width,
    written.has_output_factor,
    written.parameters,
    written.mean_eigenvalue,
    written.damping,
    written.covariance_tokens,
    written.fit_sequences,
    new_files.materialization_id
from written
inner join new_files on written.loaded_from = new_files.path
order by written.generation_id, written.module_name;
