-- Rows of evaluations_by_query that occur more than once.
-- grain: (method, query_id)
select
    method,
    query_id,
    count(*) as copies
from evaluations_by_query
group by method, query_id
having count(*) > 1;
