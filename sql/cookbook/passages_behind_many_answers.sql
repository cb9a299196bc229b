-- For curators: which passages are among the ten strongest of the most queries? Often boilerplate, or an outlier.
-- $count: how many rows
-- grain: (sequence_id)
select
    count(*) as queries,
    avg(influence_nats) as mean_influence_nats,
    any_value(shard_id) as shard_id,
    any_value(text) as text,
    sequence_id
from top_influences
where rank <= 10
group by sequence_id
order by queries desc, mean_influence_nats desc, sequence_id asc
limit $count::bigint;
