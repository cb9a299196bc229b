-- The rows of token_varieties.parquet of many artifacts ($paths), each marked with its artifact by the table new_files,
-- which the loader registers. Columns that may be null may also be missing from the files.
-- grain: (sequence_id)
insert into token_varieties by name
with written as (
    select * from token_varieties
    where false
    union all by name
    select *
    from read_parquet($paths, filename = 'loaded_from', union_by_name = true, hive_partitioning = false)
)

select
    written.sequence_id,
    written.distinct_tokens,
    written.entropy_bits,
    new_files.materialization_id
from written
inner join new_files on written.loaded_from = new_files.path
order by written.sequence_id;
