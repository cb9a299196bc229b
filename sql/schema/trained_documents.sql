-- One document that the study's own model was trained on. Empty if the study brings a model, because nothing is known
-- of what that has seen.
-- grain: (document_id)
create table trained_documents (
    document_id varchar not null,
    document_key ubigint not null,
    materialization_id bigint not null
);

comment on table trained_documents is
'One document that the study''s own model was trained on. Empty if the study brings a model, because nothing is known of what that has seen. grain: (document_id)';
comment on column trained_documents.document_id is 'The document; see documents. It need not be in the corpus any more.';
comment on column trained_documents.document_key is 'A hash of document_id, as in documents.';
comment on column trained_documents.materialization_id is
'The materialization that this row came from; see materializations.';
