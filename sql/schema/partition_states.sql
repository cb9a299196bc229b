-- How a partition of an asset stood when it was last looked at: what the study asks for, against what there is.
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
'How a partition of an asset stood when it was last looked at: what the study asks for, against what there is. grain: (asset, partition)';
comment on column partition_states.asset is 'The asset''s name.';
comment on column partition_states.partition is 'The partition''s key; null where the asset has none.';
comment on column partition_states.state is
'standing: it is as the study asks for; missing: it was never computed; stale: only another version is there; waiting: what it is computed from is not standing.';
comment on column partition_states.data_version is
'The version that the study asks for; null while that depends on what is not computed yet.';
comment on column partition_states.standing_data_version is 'The latest version that is there; null where there is none.';
comment on column partition_states.cause is 'Why it is not standing; null where it is.';
