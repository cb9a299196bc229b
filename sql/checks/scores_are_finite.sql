-- Scores, parts of scores and self-influences that are NaN or infinite.
-- grain: none; one row for each such score
select
    'influence_scores' as table_name,
    coalesce(queries.query_id, influence_scores.query_key::varchar) as query_id,
    influence_scores.sequence_id,
    influence_scores.generation_id,
    influence_scores.influence_nats as score
from influence_scores
left join queries on influence_scores.query_key = queries.query_key
where not isfinite(influence_scores.influence_nats)
union all
select
    'part_scores' as table_name,
    coalesce(queries.query_id, part_scores.query_key::varchar) as query_id,
    part_scores.sequence_id,
    part_scores.generation_id,
    part_scores.influence_nats as score
from part_scores
left join queries on part_scores.query_key = queries.query_key
where not isfinite(part_scores.influence_nats)
union all
select
    'self_influence' as table_name,
    null::varchar as query_id,
    sequence_id,
    generation_id,
    self_influence_nats as score
from self_influence
where not isfinite(self_influence_nats)
union all
select
    'self_influence_parts' as table_name,
    null::varchar as query_id,
    sequence_id,
    generation_id,
    self_influence_nats as score
from self_influence_parts
where not isfinite(self_influence_nats)
union all
select
    'method_scores' as table_name,
    query_id,
    sequence_id,
    generation_id,
    score
from method_scores
where not isfinite(score)
union all
select
    'method_part_scores' as table_name,
    query_id,
    sequence_id,
    generation_id,
    score
from method_part_scores
where not isfinite(score)
union all
select
    'group_scores' as table_name,
    query_id,
    null::bigint as sequence_id,
    null::integer as generation_id,
    score
from group_scores
where not isfinite(score)
union all
select
    'layer_influence' as table_name,
    query_id,
    sequence_id,
    generation_id,
    influence_nats as score
from layer_influence
where not isfinite(influence_nats)
union all
select
    'token_influence' as table_name,
    query_id,
    sequence_id,
    generation_id,
    influence_nats as score
from token_influence
where not isfinite(influence_nats);
