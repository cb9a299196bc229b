-- A document that was withdrawn, or that vanished with its file. None of its text is kept.
-- grain: (shard_id, document_id)
create table tombstones (
    shard_id varchar not null,
    document_id varchar not null,
    reason varchar not null,
    removed_at timestamptz not null
);

comment on table tombstones is
'A document that was withdrawn, or that vanished with its file. None of its text is kept. grain: (shard_id, document_id)';
comment on column tombstones.shard_id is
'The shard that it was in.';
comment on column tombstones.document_id is
'First 32 hex digits of the sha256 of its text, as in documents.';
comment on column tombstones.reason is
'Why it was removed: "its source file vanished" concerns only this shard; any other reason is that of a withdrawal, which concerns every shard.';
comment on column tombstones.removed_at is 'When it was withdrawn, or first found to be gone.';
