-- Rows of partition_states that occur more than once.
-- grain: (asset, partition)
select
    asset,
    partition,
    count(*) as copies
from partition_states
group by asset, partition
having count(*) > 1;
