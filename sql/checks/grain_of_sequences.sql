-- Rows of sequences that occur more than once.
-- grain: (sequence_id)
select
    sequence_id,
    count(*) as copies
from sequences
group by sequence_id
having count(*) > 1;
