-- The rows of part_scores.parquet of many artifacts ($paths), each marked with its artifact by the table new_files,
-- which the loader registers. Columns that may be null may also be missing from the files.
-- grain: (generation_id, query_key, sequence_id, document_key)
insert into part_scores by name
with written as (
    select * from part_scores
    where false
    union all by name
    select *
    from read_parquet($paths, filename = 'loaded_from', union_by_name = true, hive_partitioning = false)
)

select
    case when written.query_id is not null then hash(written.query_id) end as query_key,
    written.sequence_id,
    case when written.document_id is not null then hash(written.document_id) end as document_key,
    written.generation_id,
    written.influence_nats,
    new_files.materialization_id
from written
inner join new_files on written.loaded_from = new_files.path
order by query_key asc, new_files.materialization_id asc, written.sequence_id asc, document_key asc;
