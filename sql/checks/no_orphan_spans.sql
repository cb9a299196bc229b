-- Spans whose sequence, or whose document in that sequence's shard, is missing.
-- grain: (sequence_id, token_start)
select
    sequence_documents.sequence_id,
    sequence_documents.token_start,
    sequence_documents.document_id,
    sequences.shard_id
from sequence_documents
left join sequences on sequence_documents.sequence_id = sequences.sequence_id
left join documents
    on sequences.shard_id = documents.shard_id and sequence_documents.document_id = documents.document_id
where sequences.sequence_id is null or documents.document_id is null;
