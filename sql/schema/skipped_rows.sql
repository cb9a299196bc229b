-- One row of a source file that was left out because it cannot be used (corpus.on_bad_row: skip).
-- grain: (shard_id, source_row)
create table skipped_rows (
    shard_id varchar not null,
    source_row bigint not null,
    problem varchar not null,
    materialization_id bigint not null
);

comment on table skipped_rows is
'One row of a source file that was left out because it cannot be used (corpus.on_bad_row: skip). grain: (shard_id, source_row)';
comment on column skipped_rows.shard_id is 'The shard that the row belongs to; see shards.';
comment on column skipped_rows.source_row is 'Number of the row in its file, from 1.';
comment on column skipped_rows.problem is 'Why it cannot be used. Text of the row is left out.';
comment on column skipped_rows.materialization_id is
'The materialization that this row came from; see materializations.';
