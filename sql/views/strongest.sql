-- strongest(query, n, unseen): the n sequences of the current generation that raise a query's completion most, with
-- their documents, the one with the largest part of the score first. The fast way to a few rows among very many.
-- Sequences with a document that the study's own model was not trained on are left out, unless unseen := true is
-- given.
-- grain: (rank)
create macro strongest(query, n, unseen := false) as table
    with scored as (
        select
            sequence_id,
            influence_nats
        from current_scores
        where
            query_id = query
            and (
                unseen
                or sequence_id not in (
                    select sequences.sequence_id
                    from sequences
                    where not sequences.trained_on
                )
            )
        order by influence_nats desc, sequence_id asc
        limit n
    ),

    -- Computed once, because looking up a handful of sequences reads the ids of all.
    passages as (
        select
            scored.sequence_id,
            scored.influence_nats,
            sequences.shard_id,
            sequences.text,
            sequences.trained_on
        from scored
        inner join sequences on scored.sequence_id = sequences.sequence_id
    ),

    asked as (
        select
            query_key,
            log_probability_nats
        from queries
        where query_id = query
    ),

    parts as (
        select
            part_scores.sequence_id,
            part_scores.document_key,
            part_scores.influence_nats
        from part_scores
        inner join asked on part_scores.query_key = asked.query_key
        inner join scored on part_scores.sequence_id = scored.sequence_id
        where
            part_scores.generation_id in (
                select generations.generation_id
                from generations
                where generations.is_current
            )
    ),

    spans as (
        select
            sequence_documents.sequence_id,
            passages.shard_id,
            sequence_documents.document_key,
            parts.influence_nats
        from sequence_documents
        inner join passages on sequence_documents.sequence_id = passages.sequence_id
        left join parts
            on
                sequence_documents.sequence_id = parts.sequence_id
                and sequence_documents.document_key = parts.document_key
    ),

    -- Joined by one number, and the shard compared afterwards: with two columns DuckDB would not look up the few rows
    -- that are needed, but fetch the texts of all documents.
    named as (
        select
            spans.sequence_id,
            list(
                coalesce(documents.title, documents.external_id, documents.document_id)
                order by spans.influence_nats desc nulls last, documents.document_id asc
            ) filter (where documents.shard_id = spans.shard_id) as documents
        from spans
        inner join documents on spans.document_key = documents.document_key
        group by spans.sequence_id
    )

    select
        row_number() over (order by passages.influence_nats desc, passages.sequence_id asc) as rank,
        passages.influence_nats,
        passages.sequence_id,
        passages.shard_id,
        named.documents,
        passages.text,
        passages.trained_on,
        passages.influence_nats > -asked.log_probability_nats as exceeds_what_remains
    from passages
    cross join asked
    left join named on passages.sequence_id = named.sequence_id
    order by rank;

comment on macro table strongest is -- noqa: PRS
'strongest(query, n, unseen): the n sequences of the current generation that raise a query''s completion most, with their documents, the one with the largest part of the score first. The fast way to a few rows among very many. Sequences with a document that the study''s own model was not trained on are left out, unless unseen := true is given. grain: (rank)';
