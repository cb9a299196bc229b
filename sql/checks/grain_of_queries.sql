-- Rows of queries that occur more than once.
-- grain: (query_id)
select
    query_id,
    count(*) as copies
from queries
group by query_id
having count(*) > 1;
