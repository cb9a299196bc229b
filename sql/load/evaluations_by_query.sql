-- The rows of evaluations_by_query.parquet of many artifacts ($paths), each marked with its artifact by the table
-- new_files, which the loader registers. Columns that may be null may also be missing from the files.
-- grain: (method, query_id)
insert into evaluations_by_query by name
with written as (
    select * from evaluations_by_query
    where false
    union all by name
    select *
    from read_parquet($paths, filename = 'loaded_from', union_by_name = true, hive_partitioning = false)
)

select
    written.method,
    written.query_id,
    written.rank_correlation,
    new_files.materialization_id
from written
inner join new_files on written.loaded_from = new_files.path
order by written.method asc, written.query_id asc;
