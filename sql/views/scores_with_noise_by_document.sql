-- As scores_with_noise, for each document's part of each training sequence.
-- grain: (query_id, sequence_id, document_key)
create view scores_with_noise_by_document as
select
    current_scores_by_document.query_id,
    current_scores_by_document.sequence_id,
    current_scores_by_document.document_key,
    current_scores_by_document.generation_id,
    current_scores_by_document.influence_nats,
    calibrated(
        current_scores_by_document.influence_nats, query_noise_by_document.sigma_nats, c := calibration.c
    ) as calibrated_nats,
    query_noise_by_document.sigma_nats,
    isfinite(current_scores_by_document.influence_nats)
    and current_scores_by_document.influence_nats > query_noise_by_document.threshold_nats as is_above_noise,
    current_scores_by_document.materialization_id
from current_scores_by_document
inner join query_noise_by_document on current_scores_by_document.query_id = query_noise_by_document.query_id
cross join calibration;

comment on view scores_with_noise_by_document is
'As scores_with_noise, for each document''s part of each training sequence. grain: (query_id, sequence_id, document_key)';
comment on column scores_with_noise_by_document.query_id is 'The query; see queries.';
comment on column scores_with_noise_by_document.sequence_id is 'The training sequence; see sequences.';
comment on column scores_with_noise_by_document.document_key is 'The document; see documents.document_key.';
comment on column scores_with_noise_by_document.generation_id is 'The current generation; see generations.';
comment on column scores_with_noise_by_document.influence_nats is
'The part of the sequence''s score, in nats, that enters through the document''s tokens; positive helps. Through attention, the loss of a later document in the sequence reaches tokens of an earlier one and is counted there. Negative scores are poor evidence: judged by retraining, they predicted almost nothing.';
comment on column scores_with_noise_by_document.calibrated_nats is
'The score with its noise shrunk, in nats: S² / (S + c · sigma) with the c of calibration, and 0 where S is not positive. Null where the noise is not known.';
comment on column scores_with_noise_by_document.sigma_nats is
'Standard deviation of the query''s noise, in nats; see query_noise_by_document. Null where it is not known.';
comment on column scores_with_noise_by_document.is_above_noise is
'Whether the score stands above the noise: it exceeds query_noise_by_document.threshold_nats. Null where the noise is not known, unless the score is not finite.';
comment on column scores_with_noise_by_document.materialization_id is
'The materialization of the score; see materializations.';
