-- Rows of trained_documents that occur more than once.
-- grain: (document_id)
select
    document_id,
    count(*) as copies
from trained_documents
group by document_id
having count(*) > 1;
