-- The influence of each document on each query: a sequence's score is shared over its documents by their share of
-- its tokens, and the shares are summed.
-- grain: (query_id, shard_id, document_id)
create view influence_by_document as
with spans as (
    select
        sequence_documents.sequence_id,
        sequences.shard_id,
        sequence_documents.document_key,
        sum(sequence_documents.token_end - sequence_documents.token_start) / any_value(sequences.tokens) as token_share
    from sequence_documents
    inner join sequences on sequence_documents.sequence_id = sequences.sequence_id
    group by sequence_documents.sequence_id, sequences.shard_id, sequence_documents.document_key
),

shared as (
    select
        current_scores.query_id,
        spans.shard_id,
        spans.document_key,
        sum(current_scores.influence_nats * spans.token_share) as influence_nats,
        max(current_scores.influence_nats) as strongest_sequence_nats,
        count(*) as sequences
    from current_scores
    inner join spans on current_scores.sequence_id = spans.sequence_id
    group by current_scores.query_id, spans.shard_id, spans.document_key
)

select
    shared.query_id,
    shared.shard_id,
    documents.document_id,
    documents.external_id,
    documents.title,
    documents.source,
    documents.licence,
    documents.author,
    documents.url,
    shared.influence_nats,
    shared.strongest_sequence_nats,
    shared.sequences
from shared
inner join documents on shared.document_key = documents.document_key and shared.shard_id = documents.shard_id;

comment on view influence_by_document is
'The influence of each document on each query: a sequence''s score is shared over its documents by their share of its tokens, and the shares are summed. grain: (query_id, shard_id, document_id)';
comment on column influence_by_document.query_id is 'The query; see queries.';
comment on column influence_by_document.shard_id is 'The shard that the document was read from; see shards.';
comment on column influence_by_document.document_id is 'The document; see documents.';
comment on column influence_by_document.external_id is 'The corpus''s own id of the document.';
comment on column influence_by_document.title is 'The document''s title.';
comment on column influence_by_document.source is 'Where the document comes from, as the corpus says.';
comment on column influence_by_document.licence is 'The document''s licence.';
comment on column influence_by_document.author is 'The document''s author.';
comment on column influence_by_document.url is 'The document''s address.';
comment on column influence_by_document.influence_nats is
'Sum over the document''s sequences of their influence in nats, each times the document''s share of the sequence''s tokens; positive helps.';
comment on column influence_by_document.strongest_sequence_nats is
'Largest whole score, in nats, of a sequence with part of the document.';
comment on column influence_by_document.sequences is 'Sequences with part of the document.';
