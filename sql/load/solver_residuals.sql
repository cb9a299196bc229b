-- The rows of solver_residuals.parquet of many artifacts ($paths), each marked with its artifact by the table
-- new_files, which the loader registers. Columns that may be null may also be missing from the files.
-- grain: (query_id, method, iteration)
insert into solver_residuals by name
with written as (
    select * from solver_residuals
    where false
    union all by name
    select *
    from read_parquet($paths, filename = 'loaded_from', union_by_name = true, hive_partitioning = false)
)

select
    written.query_id,
    written.method,
    written.iteration,
    written.passes,
    written.sequences,
    written.relative_residual,
    written.objective,
    new_files.materialization_id
from written
inner join new_files on written.loaded_from = new_files.path
order by written.method asc, written.query_id asc, written.iteration asc;
