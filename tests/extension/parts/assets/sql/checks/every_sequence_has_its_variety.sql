-- Sequences without a row in token_varieties, or rows whose sequence is not there.
-- grain: (sequence_id)
select coalesce(sequences.sequence_id, token_varieties.sequence_id) as sequence_id
from sequences
full outer join token_varieties on sequences.sequence_id = token_varieties.sequence_id
where sequences.sequence_id is null or token_varieties.sequence_id is null;
