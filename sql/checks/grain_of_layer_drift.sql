-- Rows of layer_drift that occur more than once.
-- grain: (generation_id, module_name, measure)
select
    generation_id,
    module_name,
    measure,
    count(*) as copies
from layer_drift
group by generation_id, module_name, measure
having count(*) > 1;
