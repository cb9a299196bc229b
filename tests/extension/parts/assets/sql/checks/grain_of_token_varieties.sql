-- Rows of token_varieties that are there more than once.
-- grain: (sequence_id)
select
    sequence_id,
    count(*) as copies
from token_varieties
group by sequence_id
having count(*) > 1;
