-- For those who pay: what was spent on each asset on each day?
-- grain: (day, asset)
select
    day,
    asset,
    materializations,
    seconds,
    cpu_seconds,
    peak_memory_bytes,
    bytes,
    rows
from cost_by_asset_and_day
order by day desc, seconds desc, asset asc;
