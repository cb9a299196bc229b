-- Rows of materialization_inputs that occur more than once.
-- grain: (materialization_id, input_materialization_id)
select
    materialization_id,
    input_materialization_id,
    count(*) as copies
from materialization_inputs
group by materialization_id, input_materialization_id
having count(*) > 1;
