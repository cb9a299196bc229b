-- Rows of generations that occur more than once.
-- grain: (generation_id)
select
    generation_id,
    count(*) as copies
from generations
group by generation_id
having count(*) > 1;
