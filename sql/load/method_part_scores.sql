-- The rows of method_part_scores.parquet of many artifacts ($paths), each marked with its artifact by the table
-- new_files, which the loader registers. Columns that may be null may also be missing from the files.
-- grain: (generation_id, query_id, sequence_id, document_key, method)
insert into method_part_scores by name
with written as (
    select * from method_part_scores
    where false
    union all by name
    select *
    from read_parquet($paths, filename = 'loaded_from', union_by_name = true, hive_partitioning = false)
)

select
    written.query_id,
    written.sequence_id,
    case when written.document_id is not null then hash(written.document_id) end as document_key,
    written.generation_id,
    written.method,
    written.unit,
    written.score,
    new_files.materialization_id
from written
inner join new_files on written.loaded_from = new_files.path
order by written.query_id asc, written.method asc, written.sequence_id asc, document_key asc;
