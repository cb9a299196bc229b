-- The rows of one artifact's modules.parquet ($paths), marked as its own ($materialization_id).
-- grain: (generation_id, module_name)
insert into modules by name
select
    generation_id,
    module_name,
    input_width,
    output_width,
    parameters,
    mean_eigenvalue,
    damping,
    covariance_tokens,
    fit_sequences,
    $materialization_id as materialization_id
from read_parquet($paths, hive_partitioning = false)
order by module_name;
