-- Rows of part_scores that occur more than once.
-- grain: (generation_id, query_key, sequence_id, document_key)
select
    generation_id,
    query_key,
    sequence_id,
    document_key,
    count(*) as copies
from part_scores
group by generation_id, query_key, sequence_id, document_key
having count(*) > 1;
