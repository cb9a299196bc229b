-- A document that was withdrawn, or that vanished with its file, and none of its text.
-- grain: (shard_id, document_id)
create table tombstones (
    shard_id varchar not null,
    document_id varchar not null,
    reason varchar not null,
    removed_at timestamptz not null
);

comment on table tombstones is
'A document that was withdrawn, or that vanished with its file, and none of its text. grain: (shard_id, document_id)';
comment on column tombstones.shard_id is
'The shard that it was in.';
comment on column tombstones.document_id is
'First 32 hex digits of the sha256 of its text, as in documents.';
comment on column tombstones.reason is
'Why it went: "its source file vanished" concerns this shard alone; anything else is why it was withdrawn, everywhere.';
comment on column tombstones.removed_at is 'When it was withdrawn, or first seen to be gone.';
