-- The one row that describes this file.
-- grain: (study)
create table catalogue (
    study varchar not null,
    schema_version varchar not null,
    content_version varchar not null,
    states_version varchar not null,
    has_holes boolean not null,
    loaded_at timestamptz not null
);

comment on table catalogue is 'The one row that describes this file. grain: (study)';
comment on column catalogue.study is 'The study''s name.';
comment on column catalogue.schema_version is 'Hash of the statements that make and load the tables and views.';
comment on column catalogue.content_version is
'Hash of the materializations loaded, the tombstones, the current generation and the schema''s version.';
comment on column catalogue.states_version is 'Hash of partition_states.';
comment on column catalogue.has_holes is
'Whether rows were deleted since the file was rebuilt; their bytes may still be in it, where no query finds them.';
comment on column catalogue.loaded_at is 'When the last load that changed something was finished.';
