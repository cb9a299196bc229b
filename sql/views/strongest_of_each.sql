-- strongest_of_each(n, unseen): for every query, the n sequences of the current generation that raise its completion
-- most; of equal ones, those with the smaller id, without ranking and sorting all scores. Sequences with a document
-- that the study's own model was not trained on are left out, unless unseen := true is given; it is then the same as
-- top_influences where rank <= n.
-- grain: (query_id, rank)
create macro strongest_of_each(n, unseen := false) as table
    with strongest_by_query as (
        select
            query_key,
            -- One pass that keeps n pairs for each query, ordered by their fields.
            max({ 'influence_nats': influence_nats, 'against_ties': -sequence_id }, n) as pairs
        from influence_scores
        where
            generation_id in (
                select generations.generation_id
                from generations
                where generations.is_current
            )
            and (
                unseen
                or sequence_id not in (
                    select sequences.sequence_id
                    from sequences
                    where not sequences.trained_on
                )
            )
        group by query_key
    ),

    ranked as (
        select
            strongest_by_query.query_key,
            unnest(range(1, len(strongest_by_query.pairs) + 1)) as rank,
            unnest(strongest_by_query.pairs) as pair
        from strongest_by_query
    )

    select
        queries.query_id,
        ranked.rank,
        ranked.pair.influence_nats,
        sequences.sequence_id,
        sequences.shard_id,
        sequences.text
    from ranked
    inner join queries on ranked.query_key = queries.query_key
    inner join sequences on -ranked.pair.against_ties = sequences.sequence_id
    order by queries.query_id, ranked.rank;

comment on macro table strongest_of_each is -- noqa: PRS
'strongest_of_each(n, unseen): for every query, the n sequences of the current generation that raise its completion most; of equal ones, those with the smaller id, without ranking and sorting all scores. Sequences with a document that the study''s own model was not trained on are left out, unless unseen := true is given; it is then the same as top_influences where rank <= n. grain: (query_id, rank)';
