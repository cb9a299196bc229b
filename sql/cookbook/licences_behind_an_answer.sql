-- For copyright questions: under which licences are the documents behind one query's completion, and who wrote
-- them?
-- $query_id: the query, from the table queries
-- grain: (licence, author)
select
    licence,
    author,
    sum(influence_nats) as influence_nats,
    sum(greatest(influence_nats, 0)) as helping_nats,
    count(*) as documents
from influence_by_document
where query_id = $query_id
group by licence, author
order by helping_nats desc, licence asc, author asc;
