-- Mark the generation that the views show.
-- $current: its generation_id, or null
-- grain: none; it changes generations
update generations
set is_current = coalesce(generation_id = $current::integer, false)
where is_current is distinct from coalesce(generation_id = $current::integer, false);
