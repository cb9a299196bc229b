-- How far the scores of each query scatter by chance in the current generation, and how many stand out. Most sequences
-- have nothing to do with a query, so the bulk of its scores is noise. This is computed from all of its scores whenever
-- it is read: filter by query_id.
-- grain: (query_id)

-- Scores are read twice, and written in two ways, because DuckDB would keep all rows of what is the same, before it
-- filters by query_id.
create view query_noise as
with spread as (
    select
        query_id,
        generation_id,
        count(*) filter (where isfinite(influence_nats)) as sequences,
        median(influence_nats) filter (where isfinite(influence_nats)) as median_nats,
        noise_sigma(influence_nats) as sigma_nats
    from current_scores
    group by query_id, generation_id
),

levels as (
    select
        query_id,
        generation_id,
        sequences,
        median_nats,
        sigma_nats,
        noise_threshold(median_nats, sigma_nats, sequences) as threshold_nats
    from spread
)

select
    levels.query_id,
    levels.generation_id,
    any_value(levels.sequences) as sequences,
    any_value(levels.median_nats) as median_nats,
    any_value(levels.sigma_nats) as sigma_nats,
    any_value(levels.threshold_nats) as threshold_nats,
    case
        when any_value(levels.sigma_nats) is not null
            then count(*) filter (
                where
                isfinite(influence_scores.influence_nats)
                and influence_scores.influence_nats > levels.threshold_nats
            )
    end as sequences_above
from levels
inner join queries on levels.query_id = queries.query_id
inner join influence_scores
    on queries.query_key = influence_scores.query_key and levels.generation_id = influence_scores.generation_id
group by levels.query_id, levels.generation_id;

comment on view query_noise is
'How far the scores of each query scatter by chance in the current generation, and how many stand out. Most sequences have nothing to do with a query, so the bulk of its scores is noise. This is computed from all of its scores whenever it is read: filter by query_id. grain: (query_id)';
comment on column query_noise.query_id is 'The query; see queries.';
comment on column query_noise.generation_id is 'The current generation; see generations.';
comment on column query_noise.sequences is 'Sequences with a finite score: n.';
comment on column query_noise.median_nats is 'Median of their scores, in nats.';
comment on column query_noise.sigma_nats is
'Standard deviation of the noise, in nats: the median of |score − median|, over 0.6745. Null for fewer than 20 scores, from which it is not known; 0 if more than half of the scores are equal.';
comment on column query_noise.threshold_nats is
'What a score must exceed to stand above the noise, in nats: sigma times sqrt(2 ln n) more than 0 and than the median. Of n independent Gaussian scores fewer than one is expected above it. Null where sigma is.';
comment on column query_noise.sequences_above is 'Sequences whose score stands above the noise; null where sigma is.';
