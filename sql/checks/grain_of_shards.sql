-- Rows of shards that occur more than once.
-- grain: (shard_id)
select
    shard_id,
    count(*) as copies
from shards
group by shard_id
having count(*) > 1;
