-- What artifacts were computed from (new_materialization_inputs, registered by the loader).
-- grain: (materialization_id, input_materialization_id)
insert into materialization_inputs by name
select distinct
    materialization_id,
    input_materialization_id,
    input_asset,
    input_partition,
    input_data_version
from new_materialization_inputs
order by materialization_id, input_materialization_id;
