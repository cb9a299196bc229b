-- Rows of influence_scores that occur more than once.
-- grain: (generation_id, query_key, sequence_id)
select
    generation_id,
    query_key,
    sequence_id,
    count(*) as copies
from influence_scores
group by generation_id, query_key, sequence_id
having count(*) > 1;
