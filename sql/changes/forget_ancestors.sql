-- Delete the materializations from which nothing that is loaded was computed.
-- grain: none; it changes materializations
delete from materializations
where
    materialization_id not in (
        with recursive led_to as (
            select materialization_id
            from materializations
            where is_loaded
            union
            select materialization_inputs.input_materialization_id as materialization_id
            from led_to
            inner join materialization_inputs on led_to.materialization_id = materialization_inputs.materialization_id
        )

        select materialization_id
        from led_to
    );
