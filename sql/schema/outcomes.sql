-- The log-probability of one query's completion under one model that was trained again on a random subset of the
-- corpus. The artifact's table left_out has what the subset lacks.
-- grain: (subset, seed, query_id)
create table outcomes (
    subset integer not null,
    seed integer not null,
    query_id varchar not null,
    log_probability_nats double not null,
    materialization_id bigint not null
);

comment on table outcomes is
'The log-probability of one query''s completion under one model that was trained again on a random subset of the corpus. grain: (subset, seed, query_id)';
comment on column outcomes.subset is 'The number of the random subset that the model was trained on.';
comment on column outcomes.seed is
'The number of the seed, from 1: it decides the initial weights and the order of sequences.';
comment on column outcomes.query_id is 'The query; see queries.';
comment on column outcomes.log_probability_nats is 'log p(completion given prompt) under this model, in nats.';
comment on column outcomes.materialization_id is
'The materialization that this row came from; see materializations.';
