-- One figure of how far a method's scores are borne out by the retrained models, over all queries or one query set.
-- grain: (method, figure, query_set_id)
create table evaluations (
    method varchar not null,
    figure varchar not null,
    query_set_id varchar,
    value double,
    low double,
    high double,
    queries integer not null,
    subsets integer not null,
    seeds integer not null,
    materialization_id bigint not null
);

comment on table evaluations is
'One figure of how far a method''s scores are borne out by the retrained models, over all queries or one query set. grain: (method, figure, query_set_id)';
comment on column evaluations.method is 'The method; retraining is the ceiling, what perfect predictions would have.';
comment on column evaluations.figure is
'lds: the linear datamodeling score, the rank correlation over subsets of the summed scores with the measured log-probability, averaged over queries. lds_ratio: the same, over that of ekfac. qld: how many nats further log-probabilities fall without the sequences that the method scores highest than without as many random ones, averaged over queries. slope: of measured on predicted change in nats, the median over queries; 1 is right. r_squared: the share of the variance that predictions explain as they are, the median over queries. passes: the operations of the method''s scores, and of the curvature if it uses one, over those of a forward and a backward pass over the corpus; null if they are not counted; of retraining those of all its models. bytes: what is kept for the scores.';
comment on column evaluations.query_set_id is 'The query set; null for all queries.';
comment on column evaluations.value is 'The figure.';
comment on column evaluations.low is
'Lower end of its 95 % bootstrap interval over queries and subsets; of qld, slope and r_squared over queries; null for passes and bytes.';
comment on column evaluations.high is 'Upper end of the interval.';
comment on column evaluations.queries is 'How many queries were judged.';
comment on column evaluations.subsets is 'How many random subsets of the corpus, or of qld removals, models were trained on.';
comment on column evaluations.seeds is 'Models of each subset.';
comment on column evaluations.materialization_id is
'The materialization that this row came from; see materializations.';
