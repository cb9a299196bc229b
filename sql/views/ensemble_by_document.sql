-- The influence of each document on each query, averaged over the members of the study's ensemble, with an interval
-- from their spread: each member's scores of the document's parts of sequences are summed before. Documents that some
-- member has not scored yet are left out. Empty if the study has no ensemble.
-- grain: (query_id, shard_id, document_id)
create view ensemble_by_document as
with models as (
    select
        generation_id,
        count(*) over () as members
    from generations
    where is_current or member > 0
),

undivided as (
    select
        sequence_id,
        min(document_key) as document_key
    from sequence_documents
    group by sequence_id
    having min(document_key) = max(document_key)
),

parts as (
    select
        influence_scores.query_key,
        influence_scores.generation_id,
        influence_scores.sequence_id,
        undivided.document_key,
        influence_scores.influence_nats
    from influence_scores
    inner join undivided on influence_scores.sequence_id = undivided.sequence_id
    union all
    select
        query_key,
        generation_id,
        sequence_id,
        document_key,
        influence_nats
    from part_scores
),

summed as (
    select
        queries.query_id,
        sequences.shard_id,
        parts.document_key,
        models.generation_id,
        models.members,
        sum(parts.influence_nats) as influence_nats,
        count(*) as sequences
    from parts
    inner join models on parts.generation_id = models.generation_id
    inner join queries on parts.query_key = queries.query_key
    inner join sequences on parts.sequence_id = sequences.sequence_id
    where models.members > 1
    group by queries.query_id, sequences.shard_id, parts.document_key, models.generation_id, models.members
),

spread as (
    select
        query_id,
        shard_id,
        document_key,
        members,
        avg(influence_nats) as influence_nats,
        stddev_samp(influence_nats) / sqrt(members) as standard_error_nats,
        min(sequences) as sequences
    from summed
    where isfinite(influence_nats)
    group by query_id, shard_id, document_key, members
    having count(*) = members and min(sequences) = max(sequences)
)

select
    spread.query_id,
    spread.shard_id,
    documents.document_id,
    documents.external_id,
    documents.title,
    documents.source,
    documents.licence,
    documents.trained_on,
    spread.members,
    spread.influence_nats,
    spread.standard_error_nats,
    spread.influence_nats - critical_t(spread.members - 1) * spread.standard_error_nats as low_nats,
    spread.influence_nats + critical_t(spread.members - 1) * spread.standard_error_nats as high_nats,
    abs(spread.influence_nats) > critical_t(spread.members - 1) * spread.standard_error_nats as is_certain,
    spread.sequences
from spread
inner join documents on spread.document_key = documents.document_key and spread.shard_id = documents.shard_id;

comment on view ensemble_by_document is
'The influence of each document on each query, averaged over the members of the study''s ensemble, with an interval from their spread: each member''s scores of the document''s parts of sequences are summed before. Documents that some member has not scored yet are left out. Empty if the study has no ensemble. grain: (query_id, shard_id, document_id)';
comment on column ensemble_by_document.query_id is 'The query; see queries.';
comment on column ensemble_by_document.shard_id is 'The shard that the document was read from; see shards.';
comment on column ensemble_by_document.document_id is 'The document; see documents.';
comment on column ensemble_by_document.external_id is 'The corpus''s own id of the document.';
comment on column ensemble_by_document.title is 'The document''s title.';
comment on column ensemble_by_document.source is 'Where the document comes from, as the corpus says.';
comment on column ensemble_by_document.licence is 'The document''s licence.';
comment on column ensemble_by_document.trained_on is
'Whether the study''s own model was trained on the document; false if it came later, null if the study brings a model.';
comment on column ensemble_by_document.members is 'Models of the ensemble, the study''s own among them: K.';
comment on column ensemble_by_document.influence_nats is
'Mean over the members of the sum, over the sequences with tokens of the document, of the part of their score, in nats, that enters through these tokens; positive helps.';
comment on column ensemble_by_document.standard_error_nats is
'Standard error of that mean, in nats: the standard deviation of the members'' sums, over the square root of K.';
comment on column ensemble_by_document.low_nats is
'Lower end of the 95 % interval of the expected sum over seeds, in nats, by Student''s t with K - 1 degrees of freedom.';
comment on column ensemble_by_document.high_nats is 'Upper end of that interval, in nats.';
comment on column ensemble_by_document.is_certain is
'Whether the interval excludes 0, so that the sign holds over seeds.';
comment on column ensemble_by_document.sequences is 'Sequences with part of the document.';
