-- The rows of layer_drift.parquet of many artifacts ($paths), each marked with its artifact by the table new_files,
-- which the loader registers. Columns that may be null may also be missing from the files.
-- grain: (generation_id, module_name, measure)
insert into layer_drift by name
with written as (
    select * from layer_drift
    where false
    union all by name
    select *
    from read_parquet($paths, filename = 'loaded_from', union_by_name = true, hive_partitioning = false)
)

select
    written.generation_id,
    written.module_name,
    written.measure,
    written.drift,
    written.threshold,
    written.shards,
    written.fitted_shards,
    new_files.materialization_id
from written
inner join new_files on written.loaded_from = new_files.path
order by written.generation_id, written.module_name, written.measure;
