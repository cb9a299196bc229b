-- Delete the edges of materializations that no longer exist.
-- grain: none; it changes materialization_inputs
delete from materialization_inputs
where
    materialization_id not in (
        select materializations.materialization_id
        from materializations
    );
