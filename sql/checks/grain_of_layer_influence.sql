-- Rows of layer_influence that occur more than once.
-- grain: (generation_id, query_id, sequence_id, module_name)
select
    generation_id,
    query_id,
    sequence_id,
    module_name,
    count(*) as copies
from layer_influence
group by generation_id, query_id, sequence_id, module_name
having count(*) > 1;
