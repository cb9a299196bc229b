-- The rows of evaluations.parquet of many artifacts ($paths), each marked with its artifact by the table new_files,
-- which the loader registers. Columns that may be null may also be missing from the files.
-- grain: (method, figure, query_set_id)
insert into evaluations by name
with written as (
    select * from evaluations
    where false
    union all by name
    select *
    from read_parquet($paths, filename = 'loaded_from', union_by_name = true, hive_partitioning = false)
)

select
    written.method,
    written.figure,
    written.query_set_id,
    written.value,
    written.low,
    written.high,
    written.queries,
    written.subsets,
    written.seeds,
    new_files.materialization_id
from written
inner join new_files on written.loaded_from = new_files.path
order by written.query_set_id asc nulls first, written.figure asc, written.method asc;
