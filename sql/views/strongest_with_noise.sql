-- strongest_with_noise(query, n, unseen): the same rows as strongest, beside the query's noise: each score as it is and
-- with the noise shrunk, the noise's standard deviation, and whether the score stands above the noise. All scores of
-- the query are read to know it.
-- grain: (rank)
create macro strongest_with_noise(query, n, unseen := false) as table
    with passages as (
        select
            rank,
            influence_nats,
            sequence_id,
            shard_id,
            documents,
            text,
            trained_on,
            exceeds_what_remains
        from strongest(query, n, unseen := unseen)
    ),

    noise as (
        select
            sigma_nats,
            threshold_nats
        from query_noise
        where query_id = query
    )

    select
        passages.rank,
        passages.influence_nats,
        calibrated(passages.influence_nats, noise.sigma_nats, c := calibration.c) as calibrated_nats,
        noise.sigma_nats,
        isfinite(passages.influence_nats) and passages.influence_nats > noise.threshold_nats as is_above_noise,
        passages.sequence_id,
        passages.shard_id,
        passages.documents,
        passages.text,
        passages.trained_on,
        passages.exceeds_what_remains
    from passages
    cross join noise
    cross join calibration
    order by passages.rank;

comment on macro table strongest_with_noise is -- noqa: PRS
'strongest_with_noise(query, n, unseen): the same rows as strongest, beside the query''s noise: each score as it is and with the noise shrunk, the noise''s standard deviation, and whether the score stands above the noise. All scores of the query are read to know it. grain: (rank)';
