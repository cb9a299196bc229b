-- Sequences whose tokens are not just those of their spans, or whose spans overlap or leave a gap.
-- grain: (sequence_id)
with spans as (
    select
        sequence_id,
        token_start,
        token_end,
        coalesce(lag(token_end) over (partition by sequence_id order by token_start), 0) as expected_start
    from sequence_documents
),

summed as (
    select
        sequence_id,
        sum(token_end - token_start) as span_tokens,
        bool_and(token_start = expected_start and token_end > token_start) as are_contiguous
    from spans
    group by sequence_id
)

select
    sequences.sequence_id,
    sequences.shard_id,
    sequences.tokens,
    coalesce(summed.span_tokens, 0) as span_tokens,
    coalesce(summed.are_contiguous, false) as are_contiguous
from sequences
left join summed on sequences.sequence_id = summed.sequence_id
where sequences.tokens != coalesce(summed.span_tokens, 0) or not coalesce(summed.are_contiguous, false);
