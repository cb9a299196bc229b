-- For takedowns: what depends on one document, and is it removed when the document is forgotten?
-- $document_id: the document, from the table documents
-- grain: (materialization_id)
select
    depth,
    asset,
    partition,
    rows,
    bytes,
    seconds,
    is_forgotten,
    is_loaded,
    materialization_id
from dependents_of_document($document_id)
order by depth, asset, partition;
