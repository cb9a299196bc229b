-- The manifests of artifacts (new_materializations, registered by the loader).
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
    cpu_seconds,
    peak_memory_bytes,
    bytes,
    rows,
    settings,
    content_hash,
    holds_text,
    is_loaded
from new_materializations
order by asset, partition;
