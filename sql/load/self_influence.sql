-- The rows of self_influence.parquet of many artifacts ($paths), each marked with its artifact by the table new_files,
-- which the loader registers. Columns that may be null may also be missing from the files.
-- grain: (generation_id, sequence_id)
insert into self_influence by name
with written as (
    select * from self_influence
    where false
    union all by name
    select *
    from read_parquet($paths, filename = 'loaded_from', union_by_name = true, hive_partitioning = false)
)

select
    written.sequence_id,
    written.generation_id,
    written.self_influence_nats,
    new_files.materialization_id
from written
inner join new_files on written.loaded_from = new_files.path
order by new_files.materialization_id asc, written.sequence_id asc;
