-- The rows of sequence_documents.parquet of many artifacts ($paths), each marked with its artifact by the table
-- new_files, which the loader registers. Columns that may be null may also be missing from the files.
-- grain: (sequence_id, token_start)
insert into sequence_documents by name
with written as (
    select * from sequence_documents
    where false
    union all by name
    select *
    from read_parquet($paths, filename = 'loaded_from', union_by_name = true, hive_partitioning = false)
)

select
    written.sequence_id,
    written.document_id,
    hash(written.document_id) as document_key,
    written.token_start,
    written.token_end,
    written.character_start,
    written.character_end,
    new_files.materialization_id
from written
inner join new_files on written.loaded_from = new_files.path
order by written.sequence_id, written.token_start;
