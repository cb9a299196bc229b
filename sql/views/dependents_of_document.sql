-- dependents_of_document(document): every materialization that depends on a document, directly or not: what
-- has to go or be computed again when it is withdrawn. depth counts the steps from the shard that the document is in,
-- which is 0; is_loaded says whether its rows are in the tables.
-- grain: (materialization_id)
create macro dependents_of_document(document) as table
    with recursive led_to as (
        select
            materialization_id,
            0 as depth
        from documents
        where document_id = document
        union
        select
            materialization_inputs.materialization_id,
            led_to.depth + 1 as depth
        from led_to
        inner join materialization_inputs
            on led_to.materialization_id = materialization_inputs.input_materialization_id
    ),

    nearest as (
        select
            materialization_id,
            min(depth) as depth
        from led_to
        group by materialization_id
    )

    select
        nearest.depth,
        materializations.asset,
        materializations.partition,
        nearest.materialization_id,
        materializations.rows,
        materializations.bytes,
        materializations.seconds,
        materializations.is_loaded
    from nearest
    inner join materializations on nearest.materialization_id = materializations.materialization_id
    order by nearest.depth, materializations.asset, materializations.partition;

comment on macro table dependents_of_document is -- noqa: PRS
'dependents_of_document(document): every materialization that depends on a document, directly or not: what has to go or be computed again when it is withdrawn. depth counts the steps from the shard that the document is in, which is 0; is_loaded says whether its rows are in the tables. grain: (materialization_id)';
