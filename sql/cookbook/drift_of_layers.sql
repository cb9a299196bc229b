-- For those who refit: how far has each layer moved from the frozen generation?
-- grain: (generation_id, module_name, measure)
select
    generation_id,
    module_name,
    measure,
    drift,
    threshold,
    coalesce(drift > threshold, false) as is_past_threshold,
    shards,
    fitted_shards
from layer_drift
order by generation_id desc, drift desc, module_name asc, measure asc;
