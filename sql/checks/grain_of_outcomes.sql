-- Rows of outcomes that occur more than once.
-- grain: (subset, seed, query_id)
select
    subset,
    seed,
    query_id,
    count(*) as copies
from outcomes
group by subset, seed, query_id
having count(*) > 1;
