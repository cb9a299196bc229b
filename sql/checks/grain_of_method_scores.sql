-- Rows of method_scores that occur more than once.
-- grain: (generation_id, query_id, sequence_id, method)
select
    generation_id,
    query_id,
    sequence_id,
    method,
    count(*) as copies
from method_scores
group by generation_id, query_id, sequence_id, method
having count(*) > 1;
