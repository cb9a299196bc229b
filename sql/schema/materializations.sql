-- One materialization of a partition of an asset: those whose rows are loaded, and everything that they were
-- computed from.
-- grain: (materialization_id)
create table materializations (
    materialization_id bigint not null,
    asset varchar not null,
    partition varchar,
    data_version varchar not null,
    code_version varchar not null,
    run_id varchar,
    host varchar not null,
    device varchar,
    started_at timestamptz not null,
    seconds double not null,
    cpu_seconds double,
    peak_memory_bytes bigint not null,
    bytes bigint not null,
    rows bigint not null,
    settings json not null,
    content_hash varchar,
    holds_text boolean not null,
    is_loaded boolean not null
);

comment on table materializations is
'One materialization of a partition of an asset: those whose rows are loaded, and everything that they were computed from. grain: (materialization_id)';
comment on column materializations.materialization_id is 'Positive 63-bit hash of asset, partition and data version.';
comment on column materializations.asset is 'The asset''s name.';
comment on column materializations.partition is 'The partition''s key; null where the asset has none.';
comment on column materializations.data_version is 'Hash of everything that the content depends on.';
comment on column materializations.code_version is 'Version of the code that computed it.';
comment on column materializations.run_id is 'The Dagster run that computed it.';
comment on column materializations.host is 'The machine that computed it.';
comment on column materializations.device is 'The accelerator that computed it; null where none was used.';
comment on column materializations.started_at is 'When the work began.';
comment on column materializations.seconds is 'How long the work took, in seconds.';
comment on column materializations.cpu_seconds is
'Processor time of the work over all its threads, in seconds; null where it was not measured.';
comment on column materializations.peak_memory_bytes is
'Largest resident memory of the process during the work, in bytes.';
comment on column materializations.bytes is 'Size of its files together, in bytes.';
comment on column materializations.rows is 'Rows of all its tables together.';
comment on column materializations.settings is 'The settings of the study that affect it, as a JSON object.';
comment on column materializations.content_hash is
'Hash of what it read from outside the store: of the source file''s slice, or of the model''s weights; null if it was computed only from other materializations.';
comment on column materializations.holds_text is
'Whether it holds text, tokens or scores of single sequences, so that it is removed when one of its documents is withdrawn; what is merged over many documents is kept.';
comment on column materializations.is_loaded is
'Whether its rows are in the tables; if not, it is listed because something that is loaded was computed from it.';
