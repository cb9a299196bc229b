-- Scores that are not the sum of their parts over tokens, or whose parts have no score.
-- Parts and score come from passes in other batches, so they agree to rounding only. Rounding grows with the
-- magnitudes that are added, so it is measured against the sum of the parts' magnitudes, which is never less than
-- the score's own; the floor, a millionth of the query's largest score, spares scores that are all but zero.
-- grain: (generation_id, query_id, sequence_id)
with parts as (
    select
        generation_id,
        query_id,
        sequence_id,
        sum(influence_nats) as parts_nats,
        sum(abs(influence_nats)) as magnitude_nats
    from token_influence
    group by generation_id, query_id, sequence_id
),

largest as (
    select
        generation_id,
        query_key,
        max(abs(influence_nats)) as influence_nats
    from influence_scores
    where isfinite(influence_nats)
    group by generation_id, query_key
),

compared as (
    select
        parts.generation_id,
        parts.query_id,
        parts.sequence_id,
        scores.influence_nats,
        parts.parts_nats,
        parts.magnitude_nats,
        largest.influence_nats as largest_nats,
        case generations.dtype when 'float64' then 1e-9 when 'bfloat16' then 5e-2 else 1e-3 end as tolerance
    from parts
    inner join generations on parts.generation_id = generations.generation_id
    left join queries on parts.query_id = queries.query_id
    left join influence_scores as scores
        on
            parts.generation_id = scores.generation_id
            and queries.query_key = scores.query_key
            and parts.sequence_id = scores.sequence_id
    left join largest on parts.generation_id = largest.generation_id and queries.query_key = largest.query_key
)

select
    generation_id,
    query_id,
    sequence_id,
    influence_nats,
    parts_nats,
    influence_nats - parts_nats as difference_nats
from compared
where
    influence_nats is null
    or not isfinite(influence_nats)
    or not isfinite(parts_nats)
    or abs(influence_nats - parts_nats) > tolerance * magnitude_nats + 1e-6 * largest_nats;
