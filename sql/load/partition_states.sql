-- The state of every partition (new_partition_states, registered by the loader).
-- grain: (asset, partition)
insert into partition_states by name
select
    asset,
    partition,
    state,
    data_version,
    standing_data_version,
    cause
from new_partition_states
order by asset, partition;
