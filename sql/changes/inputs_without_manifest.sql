-- Inputs that have no row of their own; the search for ancestors continues with them.
-- grain: (input_asset, input_partition, input_data_version)
select distinct
    materialization_inputs.input_asset,
    materialization_inputs.input_partition,
    materialization_inputs.input_data_version
from materialization_inputs
left join materializations on materialization_inputs.input_materialization_id = materializations.materialization_id
where materializations.materialization_id is null;
