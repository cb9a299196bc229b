-- One document of the corpus, without its full text, which stays in the Parquet file of its shard. The same text
-- in two shards is two rows.
-- grain: (shard_id, document_id)
create table documents (
    document_id varchar not null,
    document_key ubigint not null,
    shard_id varchar not null,
    source_row bigint not null,
    external_id varchar,
    title varchar,
    source varchar,
    licence varchar,
    author varchar,
    date varchar,
    url varchar,
    metadata json,
    characters bigint not null,
    preview varchar not null,
    trained_on boolean,
    materialization_id bigint not null
);

comment on table documents is
'One document of the corpus, without its full text, which stays in the Parquet file of its shard. The same text in two shards is two rows. grain: (shard_id, document_id)';
comment on column documents.document_id is 'First 32 hex digits of the sha256 of the document''s UTF-8 text.';
comment on column documents.document_key is 'A hash of document_id; joins by it are faster than by document_id itself.';
comment on column documents.shard_id is 'The shard that it was read from; see shards.';
comment on column documents.source_row is 'Number of its row in the source file, from 1.';
comment on column documents.external_id is 'The corpus''s own id for it, from corpus.id_column.';
comment on column documents.title is 'Its title, where the corpus gives one.';
comment on column documents.source is 'Where the corpus says that it comes from.';
comment on column documents.licence is 'Its licence, where the corpus gives one.';
comment on column documents.author is 'Its author, where the corpus gives one.';
comment on column documents.date is 'Its date as the corpus writes it.';
comment on column documents.url is 'Its address, where the corpus gives one.';
comment on column documents.metadata is 'Every other column of its row, as a JSON object.';
comment on column documents.characters is 'Characters of its text.';
comment on column documents.preview is 'First 200 characters of its text.';
comment on column documents.trained_on is
'Whether the study''s own model was trained on it; false if it came later. Null if the study brings a model, because it is not known what that has seen.';
comment on column documents.materialization_id is 'The materialization that this row came from; see materializations.';
