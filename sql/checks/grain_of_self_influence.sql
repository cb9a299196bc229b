-- Rows of self_influence that occur more than once.
-- grain: (generation_id, sequence_id)
select
    generation_id,
    sequence_id,
    count(*) as copies
from self_influence
group by generation_id, sequence_id
having count(*) > 1;
