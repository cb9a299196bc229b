-- The scores of the current generation beside their query's noise, as they are and with the noise shrunk. All scores
-- of a query are read to know its noise: filter by query_id.
-- grain: (query_id, sequence_id)
create view scores_with_noise as
select
    current_scores.query_id,
    current_scores.sequence_id,
    current_scores.generation_id,
    current_scores.influence_nats,
    calibrated(current_scores.influence_nats, query_noise.sigma_nats, c := calibration.c) as calibrated_nats,
    query_noise.sigma_nats,
    isfinite(current_scores.influence_nats)
    and current_scores.influence_nats > query_noise.threshold_nats as is_above_noise,
    current_scores.materialization_id
from current_scores
inner join query_noise on current_scores.query_id = query_noise.query_id
cross join calibration;

comment on view scores_with_noise is
'The scores of the current generation beside their query''s noise, as they are and with the noise shrunk. All scores of a query are read to know its noise: filter by query_id. grain: (query_id, sequence_id)';
comment on column scores_with_noise.query_id is 'The query; see queries.';
comment on column scores_with_noise.sequence_id is 'The training sequence; see sequences.';
comment on column scores_with_noise.generation_id is 'The current generation; see generations.';
comment on column scores_with_noise.influence_nats is
'First-order change of the completion''s log-probability, in nats, if this sequence were added once more to the N training sequences of its generation; positive helps. Negative scores are poor evidence: judged by retraining, they predicted almost nothing.';
comment on column scores_with_noise.calibrated_nats is
'The score with its noise shrunk, in nats: S² / (S + c · sigma) with the c of calibration, and 0 where S is not positive. Null where the noise is not known.';
comment on column scores_with_noise.sigma_nats is
'Standard deviation of the query''s noise, in nats; see query_noise. Null where it is not known.';
comment on column scores_with_noise.is_above_noise is
'Whether the score stands above the noise: it exceeds query_noise.threshold_nats. Null where the noise is not known, unless the score is not finite.';
comment on column scores_with_noise.materialization_id is 'The materialization of the score; see materializations.';
