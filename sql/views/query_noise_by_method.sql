-- As query_noise, for the scores of each method other than the main one.
-- grain: (query_id, method)

-- Scores are read twice by their own name, not through one CTE: DuckDB would first keep all rows of that, and only then
-- filter by query_id.
create view query_noise_by_method as
with spread as (
    select
        query_id,
        generation_id,
        method,
        count(*) filter (where isfinite(score)) as sequences,
        median(score) filter (where isfinite(score)) as median,
        noise_sigma(score) as sigma
    from method_scores
    where
        generation_id is null
        or generation_id in (
            select generations.generation_id
            from generations
            where generations.is_current
        )
    group by query_id, generation_id, method
),

levels as (
    select
        query_id,
        generation_id,
        method,
        sequences,
        median,
        sigma,
        noise_threshold(median, sigma, sequences) as threshold
    from spread
)

select
    levels.query_id,
    levels.generation_id,
    levels.method,
    any_value(levels.sequences) as sequences,
    any_value(levels.median) as median,
    any_value(levels.sigma) as sigma,
    any_value(levels.threshold) as threshold,
    case
        when any_value(levels.sigma) is not null
            then count(*) filter (
                where
                isfinite(method_scores.score)
                and method_scores.score > levels.threshold
            )
    end as sequences_above
from levels
inner join method_scores
    on
        levels.query_id = method_scores.query_id
        and levels.method = method_scores.method
        and levels.generation_id is not distinct from method_scores.generation_id
group by levels.query_id, levels.generation_id, levels.method;

comment on view query_noise_by_method is
'As query_noise, for the scores of each method other than the main one. grain: (query_id, method)';
comment on column query_noise_by_method.query_id is 'The query; see queries.';
comment on column query_noise_by_method.generation_id is
'The current generation; see generations. Null where the method uses no curvature.';
comment on column query_noise_by_method.method is 'The method, such as gradient_dot.';
comment on column query_noise_by_method.sequences is 'Sequences with a finite score: n.';
comment on column query_noise_by_method.median is 'Median of their scores, in the method''s unit.';
comment on column query_noise_by_method.sigma is
'Standard deviation of the noise, in the method''s unit: the median of |score − median|, over 0.6745. Null for fewer than 20 scores, from which it is not known; 0 if more than half of the scores are equal.';
comment on column query_noise_by_method.threshold is
'What a score must exceed to stand above the noise, in the method''s unit: sigma times sqrt(2 ln n) more than 0 and than the median. Of n independent Gaussian scores fewer than one is expected above it. Null where sigma is.';
comment on column query_noise_by_method.sequences_above is
'Sequences whose score stands above the noise; null where sigma is.';
