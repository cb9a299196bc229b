-- Mark materializations ($numbers) whose rows were deleted as such.
-- $numbers: their materialization_ids
-- grain: none; it changes materializations
update materializations
set is_loaded = false
where materialization_id in (select unnest($numbers));
