-- For curators: which whole documents are behind one query's completion? Their parts of sequences are summed with the
-- noise of each shrunk, by which they are ordered, and as they are; those that stand above the noise are counted.
-- $query_id: the query, from the table queries
-- $count: how many rows
-- grain: (shard_id, document_id)
with summed as (
    select
        sequences.shard_id,
        scores_with_noise_by_document.document_key,
        sum(scores_with_noise_by_document.influence_nats) as influence_nats,
        sum(scores_with_noise_by_document.calibrated_nats) as calibrated_nats,
        count_if(scores_with_noise_by_document.is_above_noise) as sequences_above_noise,
        count(*) as sequences
    from scores_with_noise_by_document
    inner join sequences on scores_with_noise_by_document.sequence_id = sequences.sequence_id
    where scores_with_noise_by_document.query_id = $query_id
    group by sequences.shard_id, scores_with_noise_by_document.document_key
)

select
    summed.influence_nats,
    summed.calibrated_nats,
    documents.title,
    documents.external_id,
    documents.source,
    documents.licence,
    documents.trained_on,
    documents.url,
    summed.sequences,
    summed.sequences_above_noise,
    summed.shard_id,
    documents.document_id
from summed
inner join documents on summed.document_key = documents.document_key and summed.shard_id = documents.shard_id
order by
    summed.calibrated_nats desc nulls last,
    summed.influence_nats desc,
    summed.shard_id asc,
    documents.document_id asc
limit $count::bigint;
