-- A contiguous span of a training sequence that comes from one document. Ranges are half-open.
-- grain: (sequence_id, token_start)
create table sequence_documents (
    sequence_id bigint not null,
    document_id varchar not null,
    document_key ubigint not null,
    token_start integer not null,
    token_end integer not null,
    character_start integer not null,
    character_end integer not null,
    materialization_id bigint not null
);

comment on table sequence_documents is
'A contiguous span of a training sequence that comes from one document. Ranges are half-open. grain: (sequence_id, token_start)';
comment on column sequence_documents.sequence_id is 'The sequence; see sequences.';
comment on column sequence_documents.document_id is 'The document, in the sequence''s shard; see documents.';
comment on column sequence_documents.document_key is 'The document; see documents.document_key.';
comment on column sequence_documents.token_start is 'First token of the span, counted in the sequence from 0.';
comment on column sequence_documents.token_end is 'One past the last token of the span.';
comment on column sequence_documents.character_start is
'First character of the span, counted in the document''s text from 0.';
comment on column sequence_documents.character_end is 'One past the last character of the span.';
comment on column sequence_documents.materialization_id is
'The materialization that this row came from; see materializations.';
