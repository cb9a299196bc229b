-- Rows of evaluations that occur more than once.
-- grain: (method, figure, query_set_id)
select
    method,
    figure,
    query_set_id,
    count(*) as copies
from evaluations
group by method, figure, query_set_id
having count(*) > 1;
