-- The scores of the current generation in forms that can be compared between passages of different lengths and between
-- queries.
-- grain: (query_id, sequence_id)
create view normalised_scores as
select
    current_scores.query_id,
    current_scores.sequence_id,
    current_scores.influence_nats,
    current_scores.influence_nats / sequences.tokens as nats_per_token,
    greatest(current_scores.influence_nats, 0)
    / nullif(sum(greatest(current_scores.influence_nats, 0)) over (partition by current_scores.query_id), 0)
        as share_of_positive,
    current_scores.influence_nats > -queries.log_probability_nats as exceeds_what_remains
from current_scores
inner join sequences on current_scores.sequence_id = sequences.sequence_id
inner join queries on current_scores.query_id = queries.query_id;

comment on view normalised_scores is
'The scores of the current generation in forms that can be compared between passages of different lengths and between queries. grain: (query_id, sequence_id)';
comment on column normalised_scores.query_id is 'The query; see queries.';
comment on column normalised_scores.sequence_id is 'The training sequence; see sequences.';
comment on column normalised_scores.influence_nats is 'The score, in nats, as in current_scores.';
comment on column normalised_scores.nats_per_token is 'The score for each token of the sequence, in nats.';
comment on column normalised_scores.share_of_positive is
'The score''s share of the sum of the query''s positive scores, from 0 to 1; 0 for a negative one, null if there is no positive one.';
comment on column normalised_scores.exceeds_what_remains is
'Whether the score is larger than what the completion''s log-probability can gain, so that it ranks passages and says nothing of sizes.';
