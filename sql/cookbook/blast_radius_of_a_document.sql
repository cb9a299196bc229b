-- For takedowns: what depends on one document, and has to go or be computed again when it is withdrawn?
-- $document_id: the document, from the table documents
-- grain: (materialization_id)
select
    depth,
    asset,
    partition,
    rows,
    bytes,
    seconds,
    is_loaded,
    materialization_id
from dependents_of_document($document_id)
order by depth, asset, partition;
