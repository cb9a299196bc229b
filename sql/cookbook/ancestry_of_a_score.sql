-- For auditors: what was a score computed from, directly or indirectly, down to files, weights and code?
-- $query_id: the query, from the table queries
-- $sequence_id: the training sequence, from the table sequences
-- grain: (materialization_id)
select
    depth,
    asset,
    partition,
    path,
    content_hash,
    data_version,
    code_version,
    run_id,
    host,
    device,
    started_at,
    materialization_id
from
    ancestry_of(
        (
            select current_scores.materialization_id
            from current_scores
            where current_scores.query_id = $query_id and current_scores.sequence_id = $sequence_id::bigint
        )
    )
order by depth, asset, partition;
