-- For copyright questions: on which licence, source or other group of documents does one query's answer live, by models
-- that were trained without it? Needs `leave_one_out` or `data_shapley` among the study's methods. Scores of less than
-- two standard errors may be chance.
-- $query_id: the query, from the table queries
-- grain: (method, grouping, group_name)
select
    method,
    grouping,
    group_name,
    score,
    standard_error,
    abs(score) > 2 * standard_error as is_beyond_chance,
    unit,
    models
from group_scores
where query_id = $query_id
order by method asc, grouping asc, score desc, group_name asc;
