-- For researchers: which passages spoke against this completion? Those that lower its probability most. Negative scores
-- are poor evidence: judged by retraining, they predicted almost nothing.
-- $query_id: the query, from the table queries
-- $count: how many rows
-- grain: (rank_lowest)
with noise as (
    select
        query_id,
        sigma_nats
    from query_noise
    where query_id = $query_id
)

select
    top_influences.rank_lowest,
    top_influences.influence_nats,
    noise.sigma_nats,
    top_influences.shard_id,
    top_influences.text,
    top_influences.sequence_id
from top_influences
inner join noise on top_influences.query_id = noise.query_id
where top_influences.query_id = $query_id and top_influences.rank_lowest <= $count::bigint
order by top_influences.rank_lowest;
