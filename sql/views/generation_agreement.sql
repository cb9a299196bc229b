-- How far two generations of the study's own model agree on a query's scores, over the sequences that both have scored.
-- Ranks of equal scores are averaged.
-- grain: (query_id, generation_id, other_generation_id)
create view generation_agreement as
with own as (
    select generation_id
    from generations
    where member = 0
),

compared as (
    select
        queries.query_id,
        later.sequence_id,
        later.generation_id,
        earlier.generation_id as other_generation_id,
        later.influence_nats,
        earlier.influence_nats as other_influence_nats
    from influence_scores as later
    inner join queries on later.query_key = queries.query_key
    inner join influence_scores as earlier
        on
            later.query_key = earlier.query_key
            and later.sequence_id = earlier.sequence_id
            and later.generation_id > earlier.generation_id
    inner join own as own_later on later.generation_id = own_later.generation_id
    inner join own as own_earlier on earlier.generation_id = own_earlier.generation_id
    where isfinite(later.influence_nats) and isfinite(earlier.influence_nats)
),

ranked as (
    select
        query_id,
        generation_id,
        other_generation_id,
        influence_nats,
        other_influence_nats,
        rank() over (
            partition by query_id, generation_id, other_generation_id
            order by influence_nats
        ) + (
            count(*) over (partition by query_id, generation_id, other_generation_id, influence_nats) - 1
        ) / 2 as influence_rank,
        rank() over (
            partition by query_id, generation_id, other_generation_id
            order by other_influence_nats
        ) + (
            count(*) over (partition by query_id, generation_id, other_generation_id, other_influence_nats) - 1
        ) / 2 as other_influence_rank,
        row_number() over (
            partition by query_id, generation_id, other_generation_id
            order by influence_nats desc, sequence_id asc
        ) as place,
        row_number() over (
            partition by query_id, generation_id, other_generation_id
            order by other_influence_nats desc, sequence_id asc
        ) as other_place
    from compared
),

measured as (
    select
        query_id,
        generation_id,
        other_generation_id,
        count(*) as sequences,
        corr(influence_rank, other_influence_rank) as spearman,
        corr(influence_nats, other_influence_nats) as pearson,
        count(*) filter (where place <= 20 and other_place <= 20) as shared
    from ranked
    group by query_id, generation_id, other_generation_id
)

select
    query_id,
    generation_id,
    other_generation_id,
    sequences,
    case when isfinite(spearman) then spearman end as spearman,
    case when isfinite(pearson) then pearson end as pearson,
    shared / least(20, sequences) as top_twenty_overlap
from measured;

comment on view generation_agreement is
'How far two generations of the study''s own model agree on a query''s scores, over the sequences that both have scored. Ranks of equal scores are averaged. grain: (query_id, generation_id, other_generation_id)';
comment on column generation_agreement.query_id is 'The query; see queries.';
comment on column generation_agreement.generation_id is 'The later generation; see generations.';
comment on column generation_agreement.other_generation_id is 'The earlier generation; see generations.';
comment on column generation_agreement.sequences is 'Sequences that both have scored.';
comment on column generation_agreement.spearman is
'Correlation of the scores'' ranks, -1 to 1; null where the scores of either are all the same.';
comment on column generation_agreement.pearson is
'Correlation of the scores, -1 to 1; null where the scores of either are all the same.';
comment on column generation_agreement.top_twenty_overlap is
'Share of the twenty strongest sequences that are among the twenty strongest of both; 0 to 1.';
