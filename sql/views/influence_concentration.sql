-- Whether few sequences or many raise a query's completion: shares of its total positive influence. All are null if
-- no influence is positive.
-- grain: (query_id)
create view influence_concentration as
with positive as (
    select
        query_id,
        greatest(influence_nats, 0) as influence_nats,
        row_number() over by_strength as rank,
        count(*) over (partition by query_id) as scores,
        sum(greatest(influence_nats, 0)) over by_strength as cumulative_nats,
        sum(greatest(influence_nats, 0)) over (partition by query_id) as total_nats
    from current_scores
    window by_strength as (
        partition by query_id
        order by influence_nats desc, sequence_id asc
        rows between unbounded preceding and current row
    )
)

select
    query_id,
    any_value(scores) as sequences,
    any_value(total_nats) as positive_influence_nats,
    sum(influence_nats) filter (where rank <= ceil(scores / 100))
    / nullif(any_value(total_nats), 0) as top_percent_share,
    sum(influence_nats) filter (where rank <= 10) / nullif(any_value(total_nats), 0) as top_ten_share,
    min(rank) filter (where total_nats > 0 and cumulative_nats >= total_nats / 2) as sequences_making_half
from positive
group by query_id;

comment on view influence_concentration is
'Whether few sequences or many raise a query''s completion: shares of its total positive influence. All are null if no influence is positive. grain: (query_id)';
comment on column influence_concentration.query_id is 'The query; see queries.';
comment on column influence_concentration.sequences is 'Sequences scored.';
comment on column influence_concentration.positive_influence_nats is 'Sum of the positive influences, in nats.';
comment on column influence_concentration.top_percent_share is
'Share of it in the strongest hundredth of all sequences, rounded up; 0 to 1.';
comment on column influence_concentration.top_ten_share is 'Share of it in the ten strongest sequences; 0 to 1.';
comment on column influence_concentration.sequences_making_half is
'How many of the strongest sequences together make half of it.';
