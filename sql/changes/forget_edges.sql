-- Delete the edges of materializations ($numbers), which are loaded with their manifests.
-- $numbers: their materialization_ids
-- grain: none; it changes materialization_inputs
delete from materialization_inputs
where materialization_id in (select unnest($numbers));
