-- The manifests of the artifacts that are new (new_materializations, registered by the loader).
-- grain: (materialization_id)
insert into materializations by name
select
    materialization_id,
    asset,
    partition,
    data_version,
    code_version,
    run_id,
    host,
    device,
    started_at,
    seconds,
    peak_memory_bytes,
    bytes,
    rows,
    settings,
    is_loaded
from new_materializations
order by asset, partition;
