-- For those who refit: how far do two generations agree on each query's scores?
-- grain: (query_id, generation_id, other_generation_id)
select
    generation_agreement.generation_id,
    generation_agreement.other_generation_id,
    queries.prompt,
    queries.completion,
    generation_agreement.spearman,
    generation_agreement.pearson,
    generation_agreement.top_twenty_overlap,
    generation_agreement.sequences,
    generation_agreement.query_id
from generation_agreement
inner join queries on generation_agreement.query_id = queries.query_id
order by
    generation_agreement.generation_id desc,
    generation_agreement.other_generation_id desc,
    generation_agreement.spearman asc,
    generation_agreement.query_id asc;
