-- For researchers: through which layers does one passage act on one query?
-- $query_id: the query, from the table queries
-- $sequence_id: the training sequence, from the table sequences
-- grain: (module_name)
select
    module_name,
    influence_nats,
    influence_nats / nullif(sum(abs(influence_nats)) over (), 0) as share_of_magnitude
from layer_influence
where
    query_id = $query_id
    and sequence_id = $sequence_id::bigint
    and generation_id in (
        select generations.generation_id
        from generations
        where generations.is_current
    )
order by module_name;
