-- The rows of trained_documents.parquet of many artifacts ($paths), each marked with its artifact by the table
-- new_files, which the loader registers. Columns that may be null may also be missing from the files.
-- grain: (document_id)
insert into trained_documents by name
with written as (
    select * from trained_documents
    where false
    union all by name
    select *
    from read_parquet($paths, filename = 'loaded_from', union_by_name = true, hive_partitioning = false)
)

select
    written.document_id,
    hash(written.document_id) as document_key,
    new_files.materialization_id
from written
inner join new_files on written.loaded_from = new_files.path
order by written.document_id;
