-- ancestry_of(materialization): everything that a materialization was computed from, directly or indirectly,
-- including itself, down to code, files and weights, whose hash is content_hash. depth is the smallest number of
-- steps to it. If the store has lost every trace of something, all but what names it is null.
-- grain: (materialization_id)
create macro ancestry_of(materialization) as table
    with recursive led_from as (
        select
            materialization_id,
            asset,
            partition,
            data_version,
            0 as depth
        from materializations
        where materialization_id = materialization
        union
        select
            materialization_inputs.input_materialization_id as materialization_id,
            materialization_inputs.input_asset as asset,
            materialization_inputs.input_partition as partition,
            materialization_inputs.input_data_version as data_version,
            led_from.depth + 1 as depth
        from led_from
        inner join materialization_inputs on led_from.materialization_id = materialization_inputs.materialization_id
    ),

    nearest as (
        select
            materialization_id,
            asset,
            partition,
            data_version,
            min(depth) as depth
        from led_from
        group by materialization_id, asset, partition, data_version
    )

    select
        nearest.depth,
        nearest.asset,
        nearest.partition,
        nearest.data_version,
        materializations.code_version,
        materializations.run_id,
        materializations.host,
        materializations.device,
        materializations.started_at,
        materializations.content_hash,
        shards.path,
        nearest.materialization_id
    from nearest
    left join materializations on nearest.materialization_id = materializations.materialization_id
    left join shards on nearest.materialization_id = shards.materialization_id
    order by nearest.depth, nearest.asset, nearest.partition;

comment on macro table ancestry_of is -- noqa: PRS
'ancestry_of(materialization): everything that a materialization was computed from, directly or indirectly, including itself, down to code, files and weights, whose hash is content_hash. depth is the smallest number of steps to it. If the store has lost every trace of something, all but what names it is null. grain: (materialization_id)';
