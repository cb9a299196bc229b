-- Rows of group_scores that occur more than once.
-- grain: (method, grouping, group_name, query_id)
select
    method,
    grouping,
    group_name,
    query_id,
    count(*) as copies
from group_scores
group by method, grouping, group_name, query_id
having count(*) > 1;
