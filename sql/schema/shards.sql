-- One source file of the corpus, or one slice of a large one.
-- grain: (shard_id)
create table shards (
    shard_id varchar not null,
    path varchar not null,
    first_row bigint,
    source_bytes bigint not null,
    content_hash varchar not null,
    documents bigint not null,
    duplicate_documents bigint not null,
    withdrawn_documents bigint,
    skipped_rows bigint not null,
    characters bigint not null,
    materialization_id bigint not null
);

comment on table shards is 'One source file of the corpus, or one slice of a large one. grain: (shard_id)';
comment on column shards.shard_id is 'Path of the source file, relative to corpus.path; a large file''s second slice has @00001 after it, and so on.';
comment on column shards.path is 'Where the source file was read from.';
comment on column shards.first_row is 'Number, in its file, of the slice''s first row, from 1.';
comment on column shards.source_bytes is 'Size of the file''s or slice''s rows, decompressed, in bytes.';
comment on column shards.content_hash is 'Hash of those rows when they were read.';
comment on column shards.documents is 'Documents kept from it.';
comment on column shards.duplicate_documents is 'Documents left out because the same text came before in this shard.';
comment on column shards.withdrawn_documents is 'Documents left out because they are withdrawn; see tombstones.';
comment on column shards.skipped_rows is 'Rows left out because they cannot be used; see the table skipped_rows.';
comment on column shards.characters is 'Characters of the kept documents.';
comment on column shards.materialization_id is 'The materialization that this row came from; see materializations.';
