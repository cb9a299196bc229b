-- An artifact that a materialization was computed from.
-- grain: (materialization_id, input_materialization_id)
create table materialization_inputs (
    materialization_id bigint not null,
    input_materialization_id bigint not null,
    input_asset varchar not null,
    input_partition varchar,
    input_data_version varchar not null
);

comment on table materialization_inputs is
'An artifact that a materialization was computed from. grain: (materialization_id, input_materialization_id)';
comment on column materialization_inputs.materialization_id is 'The materialization that was computed; see materializations.';
comment on column materialization_inputs.input_materialization_id is
'The input; see materializations, where it is missing only if the store has lost every trace of it.';
comment on column materialization_inputs.input_asset is 'The input''s asset.';
comment on column materialization_inputs.input_partition is 'The input''s partition; null where its asset has none.';
comment on column materialization_inputs.input_data_version is 'The input''s data version.';
