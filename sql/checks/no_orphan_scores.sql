-- Scores, parts of scores and self-influences whose query, sequence, document or generation is missing.
-- grain: (table_name, query_id, sequence_id, generation_id)
select distinct
    'influence_scores' as table_name,
    coalesce(queries.query_id, influence_scores.query_key::varchar) as query_id,
    influence_scores.sequence_id,
    influence_scores.generation_id
from influence_scores
left join queries on influence_scores.query_key = queries.query_key
left join sequences on influence_scores.sequence_id = sequences.sequence_id
left join generations on influence_scores.generation_id = generations.generation_id
where queries.query_id is null or sequences.sequence_id is null or generations.generation_id is null
union all
select distinct
    'part_scores' as table_name,
    coalesce(queries.query_id, part_scores.query_key::varchar) as query_id,
    part_scores.sequence_id,
    part_scores.generation_id
from part_scores
left join queries on part_scores.query_key = queries.query_key
left join sequence_documents
    on
        part_scores.sequence_id = sequence_documents.sequence_id
        and part_scores.document_key = sequence_documents.document_key
left join generations on part_scores.generation_id = generations.generation_id
where queries.query_id is null or sequence_documents.sequence_id is null or generations.generation_id is null
union all
select distinct
    'self_influence' as table_name,
    null::varchar as query_id,
    self_influence.sequence_id,
    self_influence.generation_id
from self_influence
left join sequences on self_influence.sequence_id = sequences.sequence_id
left join generations on self_influence.generation_id = generations.generation_id
where sequences.sequence_id is null or generations.generation_id is null
union all
select distinct
    'self_influence_parts' as table_name,
    null::varchar as query_id,
    self_influence_parts.sequence_id,
    self_influence_parts.generation_id
from self_influence_parts
left join sequence_documents
    on
        self_influence_parts.sequence_id = sequence_documents.sequence_id
        and self_influence_parts.document_key = sequence_documents.document_key
left join generations on self_influence_parts.generation_id = generations.generation_id
where sequence_documents.sequence_id is null or generations.generation_id is null
union all
select distinct
    'method_scores' as table_name,
    method_scores.query_id,
    method_scores.sequence_id,
    method_scores.generation_id
from method_scores
left join queries on method_scores.query_id = queries.query_id
left join sequences on method_scores.sequence_id = sequences.sequence_id
left join generations on method_scores.generation_id = generations.generation_id
where
    queries.query_id is null
    or sequences.sequence_id is null
    or (method_scores.generation_id is not null and generations.generation_id is null)
union all
select distinct
    'method_part_scores' as table_name,
    method_part_scores.query_id,
    method_part_scores.sequence_id,
    method_part_scores.generation_id
from method_part_scores
left join queries on method_part_scores.query_id = queries.query_id
left join sequence_documents
    on
        method_part_scores.sequence_id = sequence_documents.sequence_id
        and method_part_scores.document_key = sequence_documents.document_key
left join generations on method_part_scores.generation_id = generations.generation_id
where
    queries.query_id is null
    or sequence_documents.sequence_id is null
    or (method_part_scores.generation_id is not null and generations.generation_id is null)
union all
select distinct
    'layer_influence' as table_name,
    layer_influence.query_id,
    layer_influence.sequence_id,
    layer_influence.generation_id
from layer_influence
left join queries on layer_influence.query_id = queries.query_id
left join sequences on layer_influence.sequence_id = sequences.sequence_id
left join generations on layer_influence.generation_id = generations.generation_id
where queries.query_id is null or sequences.sequence_id is null or generations.generation_id is null
union all
select distinct
    'token_influence' as table_name,
    token_influence.query_id,
    token_influence.sequence_id,
    token_influence.generation_id
from token_influence
left join queries on token_influence.query_id = queries.query_id
left join sequences on token_influence.sequence_id = sequences.sequence_id
left join generations on token_influence.generation_id = generations.generation_id
where queries.query_id is null or sequences.sequence_id is null or generations.generation_id is null;
