-- A key that this version of DuckDB would make differently: hashes may change from one to the next, and keys that do
-- not agree would join nothing. One of each table tells of all.
-- grain: (id)
(
    select query_id as id
    from (
        from queries
        limit 1
    )
    where query_key != hash(query_id)
)
union all
(
    select document_id as id
    from (
        from documents
        limit 1
    )
    where document_key != hash(document_id)
);
