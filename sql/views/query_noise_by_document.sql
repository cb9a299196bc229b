-- As query_noise, for the scores of the documents' parts of sequences, which scatter otherwise than those of whole
-- sequences.
-- grain: (query_id)

-- Scores are read twice by their own name, not through one CTE: DuckDB would first keep all rows of that, and only then
-- filter by query_id.
create view query_noise_by_document as
with spread as (
    select
        query_id,
        generation_id,
        count(*) filter (where isfinite(influence_nats)) as parts,
        median(influence_nats) filter (where isfinite(influence_nats)) as median_nats,
        noise_sigma(influence_nats) as sigma_nats
    from current_scores_by_document
    group by query_id, generation_id
),

levels as (
    select
        query_id,
        generation_id,
        parts,
        median_nats,
        sigma_nats,
        noise_threshold(median_nats, sigma_nats, parts) as threshold_nats
    from spread
)

select
    levels.query_id,
    levels.generation_id,
    any_value(levels.parts) as parts,
    any_value(levels.median_nats) as median_nats,
    any_value(levels.sigma_nats) as sigma_nats,
    any_value(levels.threshold_nats) as threshold_nats,
    case
        when any_value(levels.sigma_nats) is not null
            then count(*) filter (
                where
                isfinite(current_scores_by_document.influence_nats)
                and current_scores_by_document.influence_nats > levels.threshold_nats
            )
    end as parts_above
from levels
inner join current_scores_by_document
    on
        levels.query_id = current_scores_by_document.query_id
        and levels.generation_id = current_scores_by_document.generation_id
group by levels.query_id, levels.generation_id;

comment on view query_noise_by_document is
'As query_noise, for the scores of the documents'' parts of sequences, which scatter otherwise than those of whole sequences. grain: (query_id)';
comment on column query_noise_by_document.query_id is 'The query; see queries.';
comment on column query_noise_by_document.generation_id is 'The current generation; see generations.';
comment on column query_noise_by_document.parts is 'Parts of sequences, each of one document, with a finite score: n.';
comment on column query_noise_by_document.median_nats is 'Median of their scores, in nats.';
comment on column query_noise_by_document.sigma_nats is
'Standard deviation of the noise, in nats: the median of |score − median|, over 0.6745. Null for fewer than 20 scores, from which it is not known; 0 if more than half of the scores are equal.';
comment on column query_noise_by_document.threshold_nats is
'What a score must exceed to stand above the noise, in nats: sigma times sqrt(2 ln n) more than 0 and than the median. Of n independent Gaussian scores fewer than one is expected above it. Null where sigma is.';
comment on column query_noise_by_document.parts_above is
'Parts whose score stands above the noise; null where sigma is.';
