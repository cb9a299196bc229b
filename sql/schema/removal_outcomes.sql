-- The log-probability of one query's completion under one model that was trained again without a hundredth, or
-- another share, of its sequences: those that a method scores highest for a query, or as many at random.
-- grain: (method, removal, seed, query_id)
create table removal_outcomes (
    method varchar not null,
    removal integer not null,
    removed_for varchar,
    seed integer not null,
    query_id varchar not null,
    log_probability_nats double not null,
    materialization_id bigint not null
);

comment on table removal_outcomes is
'The log-probability of one query''s completion under one model that was trained again without a share of its sequences: those that a method scores highest for a query, or as many at random. grain: (method, removal, seed, query_id)';
comment on column removal_outcomes.method is
'The method whose highest scores say what is removed; random for a random removal.';
comment on column removal_outcomes.removal is 'The number of the removal among those of the method.';
comment on column removal_outcomes.removed_for is
'The query for which the removed sequences score highest; null for a random removal.';
comment on column removal_outcomes.seed is
'The number of the seed, from 1: it decides the initial weights and the order of sequences.';
comment on column removal_outcomes.query_id is 'The query; see queries.';
comment on column removal_outcomes.log_probability_nats is 'log p(completion given prompt) under this model, in nats.';
comment on column removal_outcomes.materialization_id is
'The materialization that this row came from; see materializations.';
