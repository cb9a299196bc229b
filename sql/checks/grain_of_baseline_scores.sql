-- Rows of baseline_scores that occur more than once.
-- grain: (generation_id, query_id, sequence_id, method)
select
    generation_id,
    query_id,
    sequence_id,
    method,
    count(*) as copies
from baseline_scores
group by generation_id, query_id, sequence_id, method
having count(*) > 1;
