-- Rows of self_influence_parts that occur more than once.
-- grain: (generation_id, sequence_id, document_key)
select
    generation_id,
    sequence_id,
    document_key,
    count(*) as copies
from self_influence_parts
group by generation_id, sequence_id, document_key
having count(*) > 1;
