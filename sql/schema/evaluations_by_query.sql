-- The rank correlation over subsets of a method's summed scores of one query with its measured log-probability.
-- grain: (method, query_id)
create table evaluations_by_query (
    method varchar not null,
    query_id varchar not null,
    rank_correlation double not null,
    materialization_id bigint not null
);

comment on table evaluations_by_query is
'The rank correlation over subsets of a method''s summed scores of one query with its measured log-probability. grain: (method, query_id)';
comment on column evaluations_by_query.method is 'The method.';
comment on column evaluations_by_query.query_id is 'The query; see queries.';
comment on column evaluations_by_query.rank_correlation is
'Spearman''s rank correlation, -1 to 1; 0 where predictions or outcomes are all equal.';
comment on column evaluations_by_query.materialization_id is
'The materialization that this row came from; see materializations.';
