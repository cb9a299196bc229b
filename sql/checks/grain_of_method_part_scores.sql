-- Rows of method_part_scores that occur more than once.
-- grain: (generation_id, query_id, sequence_id, document_key, method)
select
    generation_id,
    query_id,
    sequence_id,
    document_key,
    method,
    count(*) as copies
from method_part_scores
group by generation_id, query_id, sequence_id, document_key, method
having count(*) > 1;
