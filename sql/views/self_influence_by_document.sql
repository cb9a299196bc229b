-- The influence of each document on itself, in the current generation: that of its parts of sequences, summed. Empty
-- unless scores.self_influence is on.
-- grain: (shard_id, document_id)
create view self_influence_by_document as
with summed as (
    select
        sequences.shard_id,
        parts.document_key,
        sum(parts.self_influence_nats) as self_influence_nats,
        sum(parts.tokens) as tokens,
        count(*) as sequences
    from document_part_self_influence as parts
    inner join generations on parts.generation_id = generations.generation_id
    inner join sequences on parts.sequence_id = sequences.sequence_id
    where generations.is_current
    group by sequences.shard_id, parts.document_key
)

select
    summed.shard_id,
    documents.document_id,
    documents.external_id,
    documents.title,
    documents.source,
    documents.trained_on,
    summed.self_influence_nats,
    summed.self_influence_nats / summed.tokens as nats_per_token,
    summed.tokens,
    summed.sequences
from summed
inner join documents on summed.document_key = documents.document_key and summed.shard_id = documents.shard_id;

comment on view self_influence_by_document is
'The influence of each document on itself, in the current generation: that of its parts of sequences, summed. Empty unless scores.self_influence is on. grain: (shard_id, document_id)';
comment on column self_influence_by_document.shard_id is 'The shard that the document was read from; see shards.';
comment on column self_influence_by_document.document_id is 'The document; see documents.';
comment on column self_influence_by_document.external_id is 'The corpus''s own id of the document.';
comment on column self_influence_by_document.title is 'The document''s title.';
comment on column self_influence_by_document.source is 'Where the document comes from, as the corpus says.';
comment on column self_influence_by_document.trained_on is
'Whether the study''s own model was trained on the document; false if it came later, null if the study brings a model.';
comment on column self_influence_by_document.self_influence_nats is
'Sum, over the sequences with tokens of the document, of the influence of its part on itself, in nats; never negative. The influence of its parts on one another is not in it.';
comment on column self_influence_by_document.nats_per_token is
'That sum for each token of the document, in nats: long documents have more of it.';
comment on column self_influence_by_document.tokens is 'Tokens of the document.';
comment on column self_influence_by_document.sequences is 'Sequences with part of the document.';
