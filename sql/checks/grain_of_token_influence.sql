-- Rows of token_influence that occur more than once.
-- grain: (generation_id, query_id, sequence_id, token_position)
select
    generation_id,
    query_id,
    sequence_id,
    token_position,
    count(*) as copies
from token_influence
group by generation_id, query_id, sequence_id, token_position
having count(*) > 1;
