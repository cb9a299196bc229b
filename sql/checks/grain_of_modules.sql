-- Rows of modules that occur more than once.
-- grain: (generation_id, module_name)
select
    generation_id,
    module_name,
    count(*) as copies
from modules
group by generation_id, module_name
having count(*) > 1;
