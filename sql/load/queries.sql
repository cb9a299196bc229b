-- The rows of queries.parquet of many artifacts ($paths), each marked with its artifact by the table new_files,
-- which the loader registers. Columns that may be null may also be missing from the files.
-- grain: (query_id)
insert into queries by name
with written as (
    select * from queries
    where false
    union all by name
    select *
    from read_parquet($paths, filename = 'loaded_from', union_by_name = true, hive_partitioning = false)
)

select
    written.query_id,
    hash(written.query_id) as query_key,
    written.query_set_id,
    written.source_row,
    written.prompt,
    written.completion,
    written.metadata,
    written.prompt_tokens,
    written.completion_tokens,
    written.log_probability_nats,
    written.gradient_norm,
    written.truncation_error,
    written.self_influence_nats,
    new_files.materialization_id
from written
inner join new_files on written.loaded_from = new_files.path
order by written.query_set_id, written.source_row;
