-- A key that this version of DuckDB would compute differently: hashes may change between versions, and different
-- keys would join nothing. One key of each table is enough to tell.
-- grain: (table_name)
with first_query as (
    select
        query_id,
        query_key
    from queries
    order by query_key
    limit 1
),

first_document as (
    select
        document_id,
        document_key
    from documents
    order by document_key
    limit 1
)

select 'queries' as table_name
from first_query
where query_key != hash(query_id)
union all
select 'documents' as table_name
from first_document
where document_key != hash(document_id);
