-- What one group of the training text, such as a source, a licence or a document, does for one query, by a method that
-- trains models without it. Empty unless the study's methods include one.
-- grain: (method, grouping, group_name, query_id)
create table group_scores (
    method varchar not null,
    unit varchar,
    grouping varchar not null,
    group_name varchar not null,
    query_id varchar not null,
    score double not null,
    standard_error double,
    models integer not null,
    materialization_id bigint not null
);

comment on table group_scores is
'What one group of the training text, such as a source, a licence or a document, does for one query, by a method that trains models without it. Empty unless the study''s methods include one. grain: (method, grouping, group_name, query_id)';
comment on column group_scores.method is
'leave_one_out: the log-probability under models of everything minus that under models without the group. tsloo: the same between models of one seed and one order of sequences. data_shapley: what the group adds to those that arrived before it, averaged over orders of arrival; the values of all groups sum to the log-probability under models of everything minus that of the models before training. datamodels: the weight of the group in a linear fit to models of random subsets, relative to the average group.';
comment on column group_scores.unit is
'nats if scores are changes of the completion''s log-probability; relative_nats if they are so relative to the average group; null if they compare only with each other.';
comment on column group_scores.grouping is
'What the groups are: sequence, document, or a column of the corpus such as source.';
comment on column group_scores.group_name is
'The group: a sequence_id, a document_id or a value of the column; (none) for documents without one.';
comment on column group_scores.query_id is 'The query; see queries.';
comment on column group_scores.score is 'What the group does for the query, in the unit; positive helps.';
comment on column group_scores.standard_error is
'The standard error of the score, from the spread over seeds, and over orders of arrival or over folds; null if it is not known, such as from a single seed.';
comment on column group_scores.models is 'How many trained models the score was computed from.';
comment on column group_scores.materialization_id is
'The materialization that this row came from; see materializations.';
