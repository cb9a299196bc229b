-- The part of a score that comes from one token of the training sequence; kept for the strongest sequences of each
-- query, of either sign. The parts add up to the score.
-- grain: (generation_id, query_id, sequence_id, token_position)
create table token_influence (
    query_id varchar not null,
    sequence_id bigint not null,
    generation_id integer not null,
    token_position integer not null,
    token varchar not null,
    influence_nats double not null,
    materialization_id bigint not null
);

comment on table token_influence is
'The part of a score that comes from one token of the training sequence; kept for the strongest sequences of each query, of either sign. The parts add up to the score. grain: (generation_id, query_id, sequence_id, token_position)';
comment on column token_influence.query_id is 'The query; see queries.';
comment on column token_influence.sequence_id is 'The training sequence; see sequences.';
comment on column token_influence.generation_id is
'The generation of curvature and weights that the score was computed in; see generations.';
comment on column token_influence.token_position is
'Position, from 0, of the token that the model reads; the part is that of its prediction of the next token, at token_position + 1.';
comment on column token_influence.token is
'Text of the token at token_position, the one that is read, not the one predicted.';
comment on column token_influence.influence_nats is
'The token''s part of: first-order change of the completion''s log-probability, in nats, if this sequence were added once more to the N training sequences of its generation; positive helps.';
comment on column token_influence.materialization_id is
'The materialization that this row came from; see materializations.';
