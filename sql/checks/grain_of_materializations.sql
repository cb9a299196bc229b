-- Rows of materializations that occur more than once.
-- grain: (materialization_id)
select
    materialization_id,
    count(*) as copies
from materializations
group by materialization_id
having count(*) > 1;
