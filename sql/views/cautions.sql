-- What a reader of the current scores should know: scores that cannot be changes of a log-probability, because there is
-- not so much to gain, and curvature that was fitted on too little text.
-- grain: (query_id, caution)
create view cautions as
with highest as (
    select
        influence_scores.query_key,
        max(influence_scores.influence_nats) as influence_nats
    from influence_scores
    where
        influence_scores.generation_id in (
            select generations.generation_id
            from generations
            where generations.is_current
        )
    group by influence_scores.query_key
),

factors as (
    select
        modules.covariance_tokens,
        greatest(
            modules.input_width, case when coalesce(modules.has_output_factor, true) then modules.output_width end
        ) as width
    from modules
    inner join generations on modules.generation_id = generations.generation_id
    where generations.is_current
),

narrow as (
    select
        min(covariance_tokens) as covariance_tokens,
        max(width) as width
    from factors
    where covariance_tokens < width
    having count(*) > 0
)

select
    queries.query_id,
    format(
        'The highest score of {} is {:+.3g} nats, but its completion can gain {:.3g} at most. Scores are first-order '
        || 'estimates: where they are this large, they rank passages and say nothing of sizes.',
        queries.query_id, highest.influence_nats, -queries.log_probability_nats
    ) as caution
from highest
inner join queries on highest.query_key = queries.query_key
where highest.influence_nats > -queries.log_probability_nats
union all
select
    null as query_id,
    format(
        'The curvature was fitted on {:,} tokens, fewer than the {:,} columns of its widest layer, so that sizes of '
        || 'scores depend on the damping. Fit it on more text.',
        narrow.covariance_tokens, narrow.width
    ) as caution
from narrow;

comment on view cautions is
'What a reader of the current scores should know: scores that cannot be changes of a log-probability, because there is not so much to gain, and curvature that was fitted on too little text. grain: (query_id, caution)';
comment on column cautions.query_id is 'The query that it is about; see queries. Null if it is about all scores.';
comment on column cautions.caution is 'What to know, as a sentence.';
