-- Rows of removal_outcomes that occur more than once.
-- grain: (method, removal, seed, query_id)
select
    method,
    removal,
    seed,
    query_id,
    count(*) as copies
from removal_outcomes
group by method, removal, seed, query_id
having count(*) > 1;
