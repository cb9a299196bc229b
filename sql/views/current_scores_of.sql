-- current_scores_of(name): the scores of one of the study's methods, in the current generation if it uses its
-- curvature; those of the main method are current_scores. Columns query_id, sequence_id, generation_id, score, unit,
-- influence_nats (null unless the unit is nats) and materialization_id.
-- grain: (query_id, sequence_id)
create macro current_scores_of(name) as table
    select
        query_id,
        sequence_id,
        generation_id,
        influence_nats as score,
        'nats' as unit,
        influence_nats,
        materialization_id
    from current_scores
    where name = 'ekfac'
    union all
    select
        query_id,
        sequence_id,
        generation_id,
        score,
        unit,
        case when unit = 'nats' then score end as influence_nats,
        materialization_id
    from method_scores
    where
        method = name
        and (
            generation_id is null
            or generation_id in (
                select generations.generation_id
                from generations
                where generations.is_current
            )
        );

comment on macro table current_scores_of is -- noqa: PRS
'current_scores_of(name): the scores of one of the study''s methods, in the current generation if it uses its curvature; those of the main method are current_scores. Columns query_id, sequence_id, generation_id, score, unit, influence_nats (null unless the unit is nats) and materialization_id. grain: (query_id, sequence_id)';
