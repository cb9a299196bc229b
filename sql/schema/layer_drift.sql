-- How far the statistics of a layer over all shards have moved from the frozen generation.
-- grain: (generation_id, module_name, measure)
create table layer_drift (
    generation_id integer not null,
    module_name varchar not null,
    measure varchar not null,
    drift double not null,
    threshold double,
    shards bigint not null,
    fitted_shards bigint not null,
    materialization_id bigint not null
);

comment on table layer_drift is
'How far the statistics of a layer over all shards have moved from the frozen generation. grain: (generation_id, module_name, measure)';
comment on column layer_drift.generation_id is 'The generation; see generations.';
comment on column layer_drift.module_name is 'The layer; see modules.';
comment on column layer_drift.measure is
'A or S: off-diagonal energy of the merged totals of inputs or of output gradients in the frozen basis; eigenvalues: change of the corrected eigenvalues.';
comment on column layer_drift.drift is 'How far it has moved; 0 means not at all.';
comment on column layer_drift.threshold is
'The study''s threshold, past which a new generation is due; null where it has none.';
comment on column layer_drift.shards is 'Number of shards now.';
comment on column layer_drift.fitted_shards is 'Number of shards that the generation was fitted on.';
comment on column layer_drift.materialization_id is
'The materialization that this row came from; see materializations.';
