-- Every score of the current generation with its rank among its query's scores and the passage itself. Filter by
-- query_id and by rank or rank_lowest.
-- grain: (query_id, sequence_id)
create view top_influences as
with ranked as (
    select
        query_id,
        sequence_id,
        generation_id,
        influence_nats,
        -- Ordered by one pair, not by two columns: for rank <= n, DuckDB then keeps n rows for each query instead of
        -- sorting all.
        row_number() over (
            partition by query_id order by { 'influence_nats': influence_nats, 'against_ties': -sequence_id } desc
        ) as rank,
        row_number() over (
            partition by query_id order by { 'influence_nats': influence_nats, 'against_ties': -sequence_id } asc
        ) as rank_lowest
    from current_scores
)

select
    ranked.query_id,
    queries.query_set_id,
    queries.prompt,
    queries.completion,
    ranked.rank,
    ranked.rank_lowest,
    ranked.influence_nats,
    ranked.influence_nats > -queries.log_probability_nats as exceeds_what_remains,
    ranked.sequence_id,
    sequences.shard_id,
    sequences.sequence_index,
    sequences.text,
    sequences.trained_on,
    ranked.generation_id
from ranked
inner join queries on ranked.query_id = queries.query_id
inner join sequences on ranked.sequence_id = sequences.sequence_id;

comment on view top_influences is
'Every score of the current generation with its rank among its query''s scores and the passage itself. Filter by query_id and by rank or rank_lowest. grain: (query_id, sequence_id)';
comment on column top_influences.query_id is 'The query; see queries.';
comment on column top_influences.query_set_id is 'The query file.';
comment on column top_influences.prompt is 'The query''s prompt.';
comment on column top_influences.completion is 'The query''s completion.';
comment on column top_influences.rank is '1 is the sequence that raises the completion''s probability most.';
comment on column top_influences.rank_lowest is
'1 is the sequence that lowers the completion''s probability most, or raises it least. Negative scores are poor evidence: judged by retraining, they predicted almost nothing.';
comment on column top_influences.influence_nats is
'First-order change of the completion''s log-probability, in nats, if this sequence were added once more to the N training sequences of its generation; positive helps.';
comment on column top_influences.exceeds_what_remains is
'Whether the score is larger than what the completion''s log-probability can gain, so that it ranks passages and says nothing of sizes.';
comment on column top_influences.sequence_id is 'The training sequence; see sequences.';
comment on column top_influences.shard_id is 'The shard that the sequence is packed from; see shards.';
comment on column top_influences.sequence_index is 'The sequence''s number in its shard, from 0.';
comment on column top_influences.text is 'The sequence''s text.';
comment on column top_influences.trained_on is
'Whether the study''s own model was trained on all of the sequence''s documents; false if one came later, null if the study brings a model.';
comment on column top_influences.generation_id is 'The current generation; see generations.';
