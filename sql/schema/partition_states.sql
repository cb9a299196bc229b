-- The state of a partition of an asset at the last look: what the study needs, compared with what is stored.
-- grain: (asset, partition)
create table partition_states (
    asset varchar not null,
    partition varchar,
    state varchar not null,
    data_version varchar,
    standing_data_version varchar,
    cause varchar
);

comment on table partition_states is
'The state of a partition of an asset at the last look: what the study needs, compared with what is stored. grain: (asset, partition)';
comment on column partition_states.asset is 'The asset''s name.';
comment on column partition_states.partition is 'The partition''s key; null where the asset has none.';
comment on column partition_states.state is
'standing: the version that the study needs is stored; missing: it was never computed; stale: only another version is stored; waiting: something that it is computed from is not standing.';
comment on column partition_states.data_version is
'The version that the study needs; null while it depends on something that is not computed yet.';
comment on column partition_states.standing_data_version is 'The latest version that is stored; null if there is none.';
comment on column partition_states.cause is 'Why it is not standing; null if it is.';
