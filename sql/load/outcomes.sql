-- The rows of outcomes.parquet of many artifacts ($paths), each marked with its artifact by the table new_files,
-- which the loader registers. Columns that may be null may also be missing from the files.
-- grain: (subset, seed, query_id)
insert into outcomes by name
with written as (
    select * from outcomes
    where false
    union all by name
    select *
    from read_parquet($paths, filename = 'loaded_from', union_by_name = true, hive_partitioning = false)
)

select
    written.subset,
    written.seed,
    written.query_id,
    written.log_probability_nats,
    new_files.materialization_id
from written
inner join new_files on written.loaded_from = new_files.path
order by written.subset asc, written.seed asc, written.query_id asc;
