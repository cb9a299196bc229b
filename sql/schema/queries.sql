-- A prompt with the completion whose log-probability is explained.
-- grain: (query_id)
create table queries (
    query_id varchar not null,
    query_key ubigint not null,
    query_set_id varchar not null,
    source_row bigint not null,
    prompt varchar not null,
    completion varchar not null,
    metadata json,
    prompt_tokens integer not null,
    completion_tokens integer not null,
    log_probability_nats double not null,
    gradient_norm double not null,
    truncation_error double not null,
    self_influence_nats double,
    materialization_id bigint not null
);

comment on table queries is 'A prompt with the completion whose log-probability is explained. grain: (query_id)';
comment on column queries.query_id is
'The row''s own query_id, or the first 16 hex digits of a hash of prompt and completion.';
comment on column queries.query_key is 'The query''s key in influence_scores: a hash of query_id.';
comment on column queries.query_set_id is 'The query file that it was read from, relative to queries.path.';
comment on column queries.source_row is 'Number of its row in that file, from 1.';
comment on column queries.prompt is 'What conditions the completion; its own tokens are not explained.';
comment on column queries.completion is 'The text whose log-probability the influences change.';
comment on column queries.metadata is 'Every other column of its row, as a JSON object.';
comment on column queries.prompt_tokens is 'Tokens of the prompt.';
comment on column queries.completion_tokens is 'Tokens of the completion.';
comment on column queries.log_probability_nats is
'Log-probability of the completion given the prompt, in nats, summed over its tokens.';
comment on column queries.gradient_norm is
'Euclidean norm of that log-probability''s gradient over the attributed parameters.';
comment on column queries.truncation_error is
'What the gradient lost where it is stored at a lower rank, as a share of its norm, both in the norm of the damped inverse curvature that scores are products in; 0 if nothing.';
comment on column queries.self_influence_nats is
'First-order change of the completion''s log-probability, in nats, if prompt and completion were added once to the N training sequences of the generation, with the completion''s tokens alone carrying a loss; never negative, null in stores that earlier releases computed.';
comment on column queries.materialization_id is 'The materialization that this row came from; see materializations.';
