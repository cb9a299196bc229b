-- The rows of fitted_calibration.parquet of many artifacts ($paths), each marked with its artifact by the table
-- new_files, which the loader registers. Columns that may be null may also be missing from the files.
-- grain: (c)
insert into fitted_calibration by name
with written as (
    select * from fitted_calibration
    where false
    union all by name
    select *
    from read_parquet($paths, filename = 'loaded_from', union_by_name = true, hive_partitioning = false)
)

select
    written.c,
    written.queries,
    written.subsets,
    new_files.materialization_id
from written
inner join new_files on written.loaded_from = new_files.path
order by written.c asc;
