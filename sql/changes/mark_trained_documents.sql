-- Mark the documents that the study's own model was trained on, and those that came later.
-- grain: none; it changes documents
update documents
set trained_on = marks.trained_on
from (
    select
        keys.document_key,
        keys.document_key in (select trained_documents.document_key from trained_documents) as trained_on
    from (select distinct documents.document_key from documents) as keys
    where (select count(*) from trained_documents) > 0
    union all
    select
        documents.document_key,
        null::boolean as trained_on
    from documents
    where (select count(*) from trained_documents) = 0 and documents.trained_on is not null
) as marks
where documents.document_key = marks.document_key and documents.trained_on is distinct from marks.trained_on;
