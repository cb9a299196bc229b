-- The rows of group_scores.parquet of many artifacts ($paths), each marked with its artifact by the table new_files,
-- which the loader registers. Columns that may be null may also be missing from the files.
-- grain: (method, grouping, group_name, query_id)
insert into group_scores by name
with written as (
    select * from group_scores
    where false
    union all by name
    select *
    from read_parquet($paths, filename = 'loaded_from', union_by_name = true, hive_partitioning = false)
)

select
    written.method,
    written.unit,
    written.grouping,
    written.group_name,
    written.query_id,
    written.score,
    written.standard_error,
    written.models,
    new_files.materialization_id
from written
inner join new_files on written.loaded_from = new_files.path
order by written.method asc, written.grouping asc, written.query_id asc, written.group_name asc;
