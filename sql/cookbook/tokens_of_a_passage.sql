-- For researchers: which tokens of one passage act on one query? Each row's part is that of predicting the next
-- token.
-- $query_id: the query, from the table queries
-- $sequence_id: the training sequence, from the table sequences
-- grain: (token_position)
select
    token_position,
    token,
    lead(token) over (order by token_position) as predicted_token,
    influence_nats
from token_influence
where
    query_id = $query_id
    and sequence_id = $sequence_id::bigint
    and generation_id in (
        select generations.generation_id
        from generations
        where generations.is_current
    )
order by token_position;
