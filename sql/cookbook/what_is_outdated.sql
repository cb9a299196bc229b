-- For operators: what is not up to date, and why?
-- grain: (asset, state, cause)
select
    asset,
    state,
    cause,
    count(*) as partitions,
    min(partition) as first_partition
from outdated_partitions
group by asset, state, cause
order by asset asc, state asc, partitions desc, cause asc;
