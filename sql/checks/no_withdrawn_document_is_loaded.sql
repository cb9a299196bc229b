-- Documents, and spans of sequences, that a tombstone forbids: withdrawn ones in any shard, and those of a vanished
-- file in its shard.
-- grain: (table_name, shard_id, document_id)
with present as (
    select
        'documents' as table_name,
        shard_id,
        document_id
    from documents
    union
    select
        'sequence_documents' as table_name,
        sequences.shard_id,
        sequence_documents.document_id
    from sequence_documents
    left join sequences on sequence_documents.sequence_id = sequences.sequence_id
)

select distinct
    present.table_name,
    present.shard_id,
    present.document_id
from present
inner join tombstones
    on
        present.document_id = tombstones.document_id
        and (present.shard_id = tombstones.shard_id or tombstones.reason != 'its source file vanished');
