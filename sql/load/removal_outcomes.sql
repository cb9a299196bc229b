-- The rows of removal_outcomes.parquet of many artifacts ($paths), each marked with its artifact by the table
-- new_files, which the loader registers. Columns that may be null may also be missing from the files.
-- grain: (method, removal, seed, query_id)
insert into removal_outcomes by name
with written as (
    select * from removal_outcomes
    where false
    union all by name
    select *
    from read_parquet($paths, filename = 'loaded_from', union_by_name = true, hive_partitioning = false)
)

select
    written.method,
    written.removal,
    written.removed_for,
    written.seed,
    written.query_id,
    written.log_probability_nats,
    new_files.materialization_id
from written
inner join new_files on written.loaded_from = new_files.path
order by written.method asc, written.removal asc, written.seed asc, written.query_id asc;
