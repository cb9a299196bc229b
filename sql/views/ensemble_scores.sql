-- The influence of each training sequence on each query, averaged over the members of the study's ensemble, with an
-- interval from their spread. Sequences that some member has not scored yet are left out, and so are scores that are
-- not finite. Empty if the study has no ensemble.
-- grain: (query_id, sequence_id)
create view ensemble_scores as
with models as (
    select
        generation_id,
        count(*) over () as members
    from generations
    where is_current or member > 0
),

spread as (
    select
        queries.query_id,
        influence_scores.sequence_id,
        models.members,
        avg(influence_scores.influence_nats) as influence_nats,
        stddev_samp(influence_scores.influence_nats) / sqrt(models.members) as standard_error_nats
    from influence_scores
    inner join models on influence_scores.generation_id = models.generation_id
    inner join queries on influence_scores.query_key = queries.query_key
    where models.members > 1 and isfinite(influence_scores.influence_nats)
    group by queries.query_id, influence_scores.sequence_id, models.members
    -- A count of the other table's column, so that DuckDB does not aggregate before it joins, and so reads all queries.
    having count(queries.query_key) = models.members
)

select
    query_id,
    sequence_id,
    members,
    influence_nats,
    standard_error_nats,
    influence_nats - critical_t(members - 1) * standard_error_nats as low_nats,
    influence_nats + critical_t(members - 1) * standard_error_nats as high_nats,
    abs(influence_nats) > critical_t(members - 1) * standard_error_nats as is_certain
from spread;

comment on view ensemble_scores is
'The influence of each training sequence on each query, averaged over the members of the study''s ensemble, with an interval from their spread. Sequences that some member has not scored yet are left out, and so are scores that are not finite. Empty if the study has no ensemble. grain: (query_id, sequence_id)';
comment on column ensemble_scores.query_id is 'The query; see queries.';
comment on column ensemble_scores.sequence_id is 'The training sequence; see sequences.';
comment on column ensemble_scores.members is 'Models of the ensemble, the study''s own among them: K.';
comment on column ensemble_scores.influence_nats is
'Mean of the members'' scores, in nats per added copy; positive helps. current_scores has that of the study''s own model.';
comment on column ensemble_scores.standard_error_nats is
'Standard error of that mean, in nats: the standard deviation of the members'' scores, over the square root of K.';
comment on column ensemble_scores.low_nats is
'Lower end of the 95 % interval of the expected score over seeds, in nats, by Student''s t with K - 1 degrees of freedom.';
comment on column ensemble_scores.high_nats is 'Upper end of that interval, in nats.';
comment on column ensemble_scores.is_certain is 'Whether the interval excludes 0, so that the sign holds over seeds.';
