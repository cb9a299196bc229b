-- The influence of each document on each query: the scores of its parts of sequences (see current_scores_by_document),
-- summed.
-- grain: (query_id, shard_id, document_id)
create view influence_by_document as
with summed as (
    select
        current_scores_by_document.query_id,
        sequences.shard_id,
        current_scores_by_document.document_key,
        sum(current_scores_by_document.influence_nats) as influence_nats,
        max(current_scores_by_document.influence_nats) as strongest_part_nats,
        count(*) as sequences
    from current_scores_by_document
    inner join sequences on current_scores_by_document.sequence_id = sequences.sequence_id
    group by current_scores_by_document.query_id, sequences.shard_id, current_scores_by_document.document_key
)

select
    summed.query_id,
    summed.shard_id,
    documents.document_id,
    documents.external_id,
    documents.title,
    documents.source,
    documents.licence,
    documents.author,
    documents.url,
    documents.trained_on,
    summed.influence_nats,
    summed.strongest_part_nats,
    summed.sequences
from summed
inner join documents on summed.document_key = documents.document_key and summed.shard_id = documents.shard_id;

comment on view influence_by_document is
'The influence of each document on each query: the scores of its parts of sequences (see current_scores_by_document), summed. grain: (query_id, shard_id, document_id)';
comment on column influence_by_document.query_id is 'The query; see queries.';
comment on column influence_by_document.shard_id is 'The shard that the document was read from; see shards.';
comment on column influence_by_document.document_id is 'The document; see documents.';
comment on column influence_by_document.external_id is 'The corpus''s own id of the document.';
comment on column influence_by_document.title is 'The document''s title.';
comment on column influence_by_document.source is 'Where the document comes from, as the corpus says.';
comment on column influence_by_document.licence is 'The document''s licence.';
comment on column influence_by_document.author is 'The document''s author.';
comment on column influence_by_document.url is 'The document''s address.';
comment on column influence_by_document.trained_on is
'Whether the study''s own model was trained on the document; false if it came later, null if the study brings a model.';
comment on column influence_by_document.influence_nats is
'Sum, over the sequences with tokens of the document, of the part of their score, in nats, that enters through these tokens; positive helps.';
comment on column influence_by_document.strongest_part_nats is
'Largest score, in nats, of the document''s part of one sequence.';
comment on column influence_by_document.sequences is 'Sequences with part of the document.';
