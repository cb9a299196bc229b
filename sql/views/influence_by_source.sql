-- The influence of each source on each query: that of its documents (see influence_by_document), summed. Documents
-- without a source count under their shard's name.
-- grain: (query_id, source)
create view influence_by_source as
select
    query_id,
    coalesce(source, shard_id) as source,
    sum(influence_nats) as influence_nats,
    sum(greatest(influence_nats, 0)) as helping_nats,
    sum(least(influence_nats, 0)) as hurting_nats,
    count(*) as documents
from influence_by_document
group by query_id, coalesce(source, shard_id);

comment on view influence_by_source is
'The influence of each source on each query: that of its documents (see influence_by_document), summed. Documents without a source count under their shard''s name. grain: (query_id, source)';
comment on column influence_by_source.query_id is 'The query; see queries.';
comment on column influence_by_source.source is
'The documents'' source, or their shard where the corpus names no source.';
comment on column influence_by_source.influence_nats is 'Sum of the documents'' influences, in nats; positive helps.';
comment on column influence_by_source.helping_nats is 'Sum of those that are positive, in nats.';
comment on column influence_by_source.hurting_nats is
'Sum of those that are negative, in nats. They are poor evidence: judged by retraining, they predicted almost nothing.';
comment on column influence_by_source.documents is 'Documents of the source with a score.';
