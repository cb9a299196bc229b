-- Mark the generations of the further members of the study's ensemble.
-- $generations: their generation_ids
-- $members: the numbers of these members, in the same order
-- grain: none; it changes generations
update generations
set member = coalesce(($members::integer[])[list_position($generations::integer[], generation_id)], 0)
where
    member is distinct from
    coalesce(($members::integer[])[list_position($generations::integer[], generation_id)], 0);
