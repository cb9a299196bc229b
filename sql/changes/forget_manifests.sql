-- Delete the manifests of materializations ($numbers), which are loaded, perhaps in another role.
-- $numbers: their materialization_ids
-- grain: none; it changes materializations
delete from materializations
where materialization_id in (select unnest($numbers));
