-- The number of current generations, if there are generations and not exactly one of them is current.
-- grain: none; at most one row
select
    count(*) filter (where is_current) as current_generations,
    count(*) as generations
from generations
having count(*) > 0 and count(*) filter (where is_current) != 1;
