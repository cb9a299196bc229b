-- The time and memory spent on each asset on each day (UTC), for what is published and what that was computed from.
-- grain: (asset, day)
create view cost_by_asset_and_day as
select
    asset,
    make_timestamp(epoch_us(started_at))::date as day,
    count(*) as materializations,
    sum(seconds) as seconds,
    sum(cpu_seconds) as cpu_seconds,
    max(peak_memory_bytes) as peak_memory_bytes,
    sum(bytes)::bigint as bytes,
    sum(rows)::bigint as rows
from materializations
group by asset, make_timestamp(epoch_us(started_at))::date;

comment on view cost_by_asset_and_day is
'The time and memory spent on each asset on each day (UTC), for what is published and what that was computed from. grain: (asset, day)';
comment on column cost_by_asset_and_day.asset is 'The asset''s name.';
comment on column cost_by_asset_and_day.day is 'The day, in UTC, on which the work began.';
comment on column cost_by_asset_and_day.materializations is 'Partitions computed.';
comment on column cost_by_asset_and_day.seconds is 'Time that they took, in seconds, summed.';
comment on column cost_by_asset_and_day.cpu_seconds is
'Processor time that they took, in seconds, summed; null where none was measured.';
comment on column cost_by_asset_and_day.peak_memory_bytes is 'Largest resident memory of any of them, in bytes.';
comment on column cost_by_asset_and_day.bytes is 'Size of their files together, in bytes.';
comment on column cost_by_asset_and_day.rows is 'Rows of their tables together.';
