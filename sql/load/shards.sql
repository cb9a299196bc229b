-- The rows of shards.parquet of many artifacts ($paths), each marked with its artifact by the table new_files,
-- which the loader registers. Columns that may be null may also be missing from the files.
-- grain: (shard_id)
insert into shards by name
with written as (
    select * from shards
    where false
    union all by name
    select *
    from read_parquet($paths, filename = 'loaded_from', union_by_name = true, hive_partitioning = false)
)

select
    written.shard_id,
    written.path,
    written.first_row,
    written.source_bytes,
    written.content_hash,
    written.documents,
    written.duplicate_documents,
    written.withdrawn_documents,
    coalesce(written.skipped_rows, 0) as skipped_rows,
    written.characters,
    new_files.materialization_id
from written
inner join new_files on written.loaded_from = new_files.path
order by written.shard_id;
