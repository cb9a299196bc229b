-- For auditors: from which documents, run, code and weights does one score come?
-- $query_id: the query, from the table queries
-- $sequence_id: the training sequence, from the table sequences
-- grain: (document_id)
select
    influence_nats,
    document_tokens,
    title,
    external_id,
    source,
    licence,
    document_id,
    shard_id,
    path,
    source_row,
    content_hash,
    run_id,
    started_at,
    code_version,
    data_version,
    generation_id,
    weights_hash,
    model_path
from score_lineage
where query_id = $query_id and sequence_id = $sequence_id::bigint
order by document_tokens desc, document_id asc;
