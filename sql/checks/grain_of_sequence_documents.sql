-- Rows of sequence_documents that occur more than once.
-- grain: (sequence_id, token_start)
select
    sequence_id,
    token_start,
    count(*) as copies
from sequence_documents
group by sequence_id, token_start
having count(*) > 1;
