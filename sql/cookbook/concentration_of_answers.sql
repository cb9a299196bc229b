-- For researchers: is an answer remembered from a few passages or learnt from many? The most concentrated first.
-- $count: how many rows
-- grain: (query_id)
select
    queries.prompt,
    queries.completion,
    influence_concentration.top_ten_share,
    influence_concentration.top_percent_share,
    influence_concentration.sequences_making_half,
    influence_concentration.sequences,
    influence_concentration.query_id
from influence_concentration
inner join queries on influence_concentration.query_id = queries.query_id
order by influence_concentration.top_ten_share desc, influence_concentration.query_id asc
limit $count::bigint;
