-- Mark the sequences that the study's own model was trained on, and those with a document that came later.
-- grain: none; it changes sequences
update sequences
set trained_on = marks.trained_on
from (
    select
        sequence_documents.sequence_id,
        bool_and(
            sequence_documents.document_key in (select trained_documents.document_key from trained_documents)
        ) as trained_on
    from sequence_documents
    where (select count(*) from trained_documents) > 0
    group by sequence_documents.sequence_id
    union all
    select
        sequences.sequence_id,
        null::boolean as trained_on
    from sequences
    where (select count(*) from trained_documents) = 0 and sequences.trained_on is not null
) as marks
where sequences.sequence_id = marks.sequence_id and sequences.trained_on is distinct from marks.trained_on;
