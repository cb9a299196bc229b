-- For curators: how much does each source contribute to the answers of a whole query set?
-- $query_set_id: the query file, from the table queries
-- grain: (source)
select
    influence_by_source.source,
    avg(influence_by_source.influence_nats) as mean_influence_nats,
    sum(influence_by_source.helping_nats) as helping_nats,
    sum(influence_by_source.hurting_nats) as hurting_nats,
    count(*) as queries
from influence_by_source
inner join queries on influence_by_source.query_id = queries.query_id
where queries.query_set_id = $query_set_id
group by influence_by_source.source
order by mean_influence_nats desc, influence_by_source.source asc;
