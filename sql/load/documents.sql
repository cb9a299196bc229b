-- The rows of documents.parquet of many artifacts ($paths), each marked with its artifact by the table new_files,
-- which the loader registers. Columns that may be null may also be missing from the files.
-- grain: (shard_id, document_id)
insert into documents by name
with written as (
    select * from documents
    where false
    union all by name
    select *
    from read_parquet($paths, filename = 'loaded_from', union_by_name = true, hive_partitioning = false)
)

select
    written.document_id,
    hash(written.document_id) as document_key,
    written.shard_id,
    written.source_row,
    written.external_id,
    written.title,
    written.source,
    written.licence,
    written.author,
    written.date,
    written.url,
    written.metadata,
    written.characters,
    left(written.text, 200) as preview,
    new_files.materialization_id
from written
inner join new_files on written.loaded_from = new_files.path
order by written.shard_id, written.source_row;
