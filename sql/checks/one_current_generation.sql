-- The number of current generations where it is not one although there are generations.
-- grain: none; at most one row
select
    count(*) filter (where is_current) as current_generations,
    count(*) as generations
from generations
having count(*) > 0 and count(*) filter (where is_current) != 1;
