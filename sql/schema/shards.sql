-- One source file of the corpus.
-- grain: (shard_id)
create table shards (
    shard_id varchar not null,
    path varchar not null,
    source_bytes bigint not null,
    content_hash varchar not null,
    documents bigint not null,
    duplicate_documents bigint not null,
    characters bigint not null,
    materialization_id bigint not null
);

comment on table shards is 'One source file of the corpus. grain: (shard_id)';
comment on column shards.shard_id is 'Path of the source file, relative to corpus.path.';
comment on column shards.path is 'Where the source file was read from.';
comment on column shards.source_bytes is 'Size of the source file as it lies there, compressed or not, in bytes.';
comment on column shards.content_hash is 'Hash of the source file''s content when it was read.';
comment on column shards.documents is 'Documents kept of it.';
comment on column shards.duplicate_documents is 'Documents left out because the same text came before in this shard.';
comment on column shards.characters is 'Characters of the documents kept.';
comment on column shards.materialization_id is 'The materialization that this row came from; see materializations.';
