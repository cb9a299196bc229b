-- For privacy questions: do passages that contain a phrase, such as a person's name, raise any answer, and by more than
-- the noise?
-- $phrase: the phrase; capitals do not matter
-- $count: how many rows
-- grain: (query_id, sequence_id)
with passages as (
    select
        current_scores.query_id,
        current_scores.sequence_id,
        current_scores.influence_nats,
        sequences.text,
        sequences.shard_id
    from sequences
    inner join current_scores on sequences.sequence_id = current_scores.sequence_id
    where contains(lower(sequences.text), lower($phrase))
    order by current_scores.influence_nats desc, current_scores.query_id asc, current_scores.sequence_id asc
    limit $count::bigint
),

-- Not query_noise, which would read the scores of every query.
spread as (
    select
        query_id,
        count(*) filter (where isfinite(influence_nats)) as sequences,
        median(influence_nats) filter (where isfinite(influence_nats)) as median_nats,
        noise_sigma(influence_nats) as sigma_nats
    from current_scores
    where query_id in (select passages.query_id from passages)
    group by query_id
)

select
    queries.prompt,
    queries.completion,
    passages.influence_nats,
    spread.sigma_nats,
    isfinite(passages.influence_nats)
    and passages.influence_nats
    > noise_threshold(spread.median_nats, spread.sigma_nats, spread.sequences) as is_above_noise,
    passages.text,
    passages.shard_id,
    passages.query_id,
    passages.sequence_id
from passages
inner join queries on passages.query_id = queries.query_id
inner join spread on passages.query_id = spread.query_id
order by passages.influence_nats desc, passages.query_id asc, passages.sequence_id asc;
