-- The rows of skipped_rows.parquet of many artifacts ($paths), each marked with its artifact by the table new_files,
-- which the loader registers. Columns that may be null may also be missing from the files.
-- grain: (shard_id, source_row)
insert into skipped_rows by name
with written as (
    select * from skipped_rows
    where false
    union all by name
    select *
    from read_parquet($paths, filename = 'loaded_from', union_by_name = true, hive_partitioning = false)
)

select
    written.shard_id,
    written.source_row,
    written.problem,
    new_files.materialization_id
from written
inner join new_files on written.loaded_from = new_files.path
order by written.shard_id, written.source_row;
