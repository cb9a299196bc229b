-- Scores of sequences with several documents that are not the sum of the documents' parts, that lack a part or have one
-- too many, and parts without a score.
-- The last part of a sequence is computed as what the others leave, so sum and score agree to the rounding of a sum in
-- double precision, whatever the model's precision is.
-- grain: (generation_id, query_key, sequence_id)
with shared as (
    select
        sequence_id,
        count(distinct document_key) as documents
    from sequence_documents
    group by sequence_id
    having min(document_key) != max(document_key)
),

parts as (
    select
        generation_id,
        query_key,
        sequence_id,
        count(*) as documents,
        sum(influence_nats) as parts_nats,
        sum(abs(influence_nats)) as magnitude_nats
    from part_scores
    group by generation_id, query_key, sequence_id
),

scores as (
    select
        influence_scores.generation_id,
        influence_scores.query_key,
        influence_scores.sequence_id,
        influence_scores.influence_nats,
        shared.documents
    from influence_scores
    inner join shared on influence_scores.sequence_id = shared.sequence_id
),

compared as (
    select
        coalesce(scores.generation_id, parts.generation_id) as generation_id,
        coalesce(scores.query_key, parts.query_key) as query_key,
        coalesce(scores.sequence_id, parts.sequence_id) as sequence_id,
        scores.influence_nats,
        parts.parts_nats,
        parts.magnitude_nats,
        scores.documents,
        parts.documents as scored_documents
    from scores
    full join parts
        on
            scores.generation_id = parts.generation_id
            and scores.query_key = parts.query_key
            and scores.sequence_id = parts.sequence_id
)

select
    generation_id,
    query_key,
    sequence_id,
    influence_nats,
    parts_nats,
    documents,
    scored_documents
from compared
where
    documents is distinct from scored_documents
    or not isfinite(influence_nats)
    or not isfinite(parts_nats)
    or abs(influence_nats - parts_nats) > 1e-9 * magnitude_nats;
