-- strongest(query, n): the n sequences of the current generation that raise a query's completion most, with their
-- documents, the larger share of the tokens first. The fast way to a handful of rows among very many.
-- grain: (rank)
create macro strongest(query, n) as table
    with scored as (
        select
            sequence_id,
            influence_nats
        from current_scores
        where query_id = query
        order by influence_nats desc, sequence_id asc
        limit n
    ),

    -- Once, because a look for a handful of sequences reads the ids of all.
    found as (
        select
            scored.sequence_id,
            scored.influence_nats,
            sequences.shard_id,
            sequences.text
        from scored
        inner join sequences on scored.sequence_id = sequences.sequence_id
    ),

    spans as (
        select
            sequence_documents.sequence_id,
            found.shard_id,
            sequence_documents.document_key,
            sum(sequence_documents.token_end - sequence_documents.token_start) as tokens
        from sequence_documents
        inner join found on sequence_documents.sequence_id = found.sequence_id
        group by sequence_documents.sequence_id, found.shard_id, sequence_documents.document_key
    ),

    -- Joined by one number, and the shard compared afterwards: of two columns together DuckDB would not look for the
    -- few that are wanted, but fetch the texts of every document.
    named as (
        select
            spans.sequence_id,
            list(
                coalesce(documents.title, documents.external_id, documents.document_id)
                order by spans.tokens desc, documents.document_id asc
            ) filter (where documents.shard_id = spans.shard_id) as documents
        from spans
        inner join documents on spans.document_key = documents.document_key
        group by spans.sequence_id
    )

    select
        row_number() over (order by found.influence_nats desc, found.sequence_id asc) as rank,
        found.influence_nats,
        found.sequence_id,
        found.shard_id,
        named.documents,
        found.text
    from found
    left join named on found.sequence_id = named.sequence_id
    order by rank;

comment on macro table strongest is -- noqa: PRS
'strongest(query, n): the n sequences of the current generation that raise a query''s completion most, with their documents, the larger share of the tokens first. The fast way to a handful of rows among very many. grain: (rank)';
