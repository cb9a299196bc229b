-- The partitions that were not up to date at the last look, and why.
-- grain: (asset, partition)
create view outdated_partitions as
select
    asset,
    partition,
    state,
    data_version,
    standing_data_version,
    cause
from partition_states
where state != 'standing';

comment on view outdated_partitions is
'The partitions that were not up to date at the last look, and why. grain: (asset, partition)';
comment on column outdated_partitions.asset is 'The asset''s name.';
comment on column outdated_partitions.partition is 'The partition''s key; null where the asset has none.';
comment on column outdated_partitions.state is 'missing, stale or waiting; see partition_states.';
comment on column outdated_partitions.data_version is
'The version that the study needs; null while it depends on something that is not computed yet.';
comment on column outdated_partitions.standing_data_version is
'The latest version that is stored; null if there is none.';
comment on column outdated_partitions.cause is 'Why it is not standing.';
