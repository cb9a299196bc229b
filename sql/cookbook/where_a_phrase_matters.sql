-- For privacy questions: do passages that contain a phrase, such as a person's name, raise any answer?
-- $phrase: the phrase; capitals do not matter
-- $count: how many rows
-- grain: (query_id, sequence_id)
select
    queries.prompt,
    queries.completion,
    current_scores.influence_nats,
    sequences.text,
    sequences.shard_id,
    current_scores.query_id,
    current_scores.sequence_id
from sequences
inner join current_scores on sequences.sequence_id = current_scores.sequence_id
inner join queries on current_scores.query_id = queries.query_id
where contains(lower(sequences.text), lower($phrase))
order by current_scores.influence_nats desc, current_scores.query_id asc, current_scores.sequence_id asc
limit $count::bigint;
