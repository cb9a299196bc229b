-- Where a score comes from: its sequence, that sequence's documents with their shard and file, and the run, code,
-- data version, curvature generation and weights that produced it.
-- grain: (query_id, sequence_id, document_id)
create view score_lineage as
with spans as (
    select
        sequence_id,
        document_id,
        sum(token_end - token_start)::bigint as document_tokens
    from sequence_documents
    group by sequence_id, document_id
)

select
    current_scores.query_id,
    current_scores.sequence_id,
    current_scores.influence_nats,
    current_scores.generation_id,
    sequences.shard_id,
    shards.path,
    shards.content_hash,
    spans.document_id,
    spans.document_tokens,
    documents.source_row,
    documents.external_id,
    documents.title,
    documents.source,
    documents.licence,
    materializations.asset,
    materializations.partition,
    materializations.run_id,
    materializations.started_at,
    materializations.code_version,
    materializations.data_version,
    generations.weights_hash,
    generations.model_path,
    current_scores.materialization_id
from current_scores
inner join sequences on current_scores.sequence_id = sequences.sequence_id
inner join shards on sequences.shard_id = shards.shard_id
inner join spans on current_scores.sequence_id = spans.sequence_id
inner join documents on sequences.shard_id = documents.shard_id and spans.document_id = documents.document_id
inner join materializations on current_scores.materialization_id = materializations.materialization_id
inner join generations on current_scores.generation_id = generations.generation_id;

comment on view score_lineage is
'Where a score comes from: its sequence, that sequence''s documents with their shard and file, and the run, code, data version, curvature generation and weights that produced it. grain: (query_id, sequence_id, document_id)';
comment on column score_lineage.query_id is 'The query; see queries.';
comment on column score_lineage.sequence_id is 'The training sequence; see sequences.';
comment on column score_lineage.influence_nats is
'First-order change of the completion''s log-probability, in nats, if this sequence were added once more to the N training sequences of its generation; positive helps.';
comment on column score_lineage.generation_id is 'The current generation; see generations.';
comment on column score_lineage.shard_id is 'The shard that the sequence is packed from; see shards.';
comment on column score_lineage.path is 'Where the source file was read from.';
comment on column score_lineage.content_hash is 'Hash of the source file when it was read.';
comment on column score_lineage.document_id is 'The document; see documents.';
comment on column score_lineage.document_tokens is 'Tokens of the sequence that come from the document.';
comment on column score_lineage.source_row is 'The document''s row in the source file, from 1.';
comment on column score_lineage.external_id is 'The corpus''s own id of the document.';
comment on column score_lineage.title is 'The document''s title.';
comment on column score_lineage.source is 'Where the document comes from, as the corpus says.';
comment on column score_lineage.licence is 'The document''s licence.';
comment on column score_lineage.asset is 'The asset that the score belongs to.';
comment on column score_lineage.partition is 'The partition that the score belongs to.';
comment on column score_lineage.run_id is 'The Dagster run that computed the score.';
comment on column score_lineage.started_at is 'When that partition''s computation began.';
comment on column score_lineage.code_version is 'Version of the code that computed the score.';
comment on column score_lineage.data_version is 'Data version of the score''s materialization.';
comment on column score_lineage.weights_hash is 'Hash of the weights that the score explains.';
comment on column score_lineage.model_path is 'Where the model was loaded from.';
comment on column score_lineage.materialization_id is 'The materialization of the score; see materializations.';
