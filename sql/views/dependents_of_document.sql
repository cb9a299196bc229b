-- dependents_of_document(document): every materialization that depends on a document, directly or indirectly.
-- is_forgotten: it holds text, tokens or scores of sequences with the document, and influence forget removes it; the
-- others are merged over many documents (a generation, a trained model) or computed from such, hold no document's
-- text, and are kept. depth is the number of steps from the shard that the document is in, which is 0; is_loaded
-- says whether its rows are in the tables.
-- grain: (materialization_id)
create macro dependents_of_document(document) as table
    with recursive led_to as (
        select
            materialization_id,
            0 as depth,
            true as is_forgotten
        from documents
        where document_id = document
        union
        select
            materialization_inputs.materialization_id,
            led_to.depth + 1 as depth,
            led_to.is_forgotten and materializations.holds_text as is_forgotten
        from led_to
        inner join materialization_inputs
            on led_to.materialization_id = materialization_inputs.input_materialization_id
        inner join materializations
            on materialization_inputs.materialization_id = materializations.materialization_id
    ),

    nearest as (
        select
            materialization_id,
            min(depth) as depth,
            bool_or(is_forgotten) as is_forgotten
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
        nearest.is_forgotten,
        materializations.is_loaded
    from nearest
    inner join materializations on nearest.materialization_id = materializations.materialization_id
    order by nearest.depth, materializations.asset, materializations.partition;

comment on macro table dependents_of_document is -- noqa: PRS
'dependents_of_document(document): every materialization that depends on a document, directly or indirectly. is_forgotten: it holds text, tokens or scores of sequences with the document, and influence forget removes it; the others are merged over many documents (a generation, a trained model) or computed from such, hold no document''s text, and are kept. depth is the number of steps from the shard that the document is in, which is 0; is_loaded says whether its rows are in the tables. grain: (materialization_id)';
