-- The influence of each document on itself, averaged over the members of the study's ensemble, with an interval from
-- their spread: each member's values of the document's parts of sequences are summed before. Documents that some member
-- lacks are left out. Empty if the study has no ensemble, or unless scores.self_influence is on.
-- grain: (shard_id, document_id)
create view ensemble_self_influence as
with models as (
    select
        generation_id,
        count(*) over () as members
    from generations
    where is_current or member > 0
),

summed as (
    select
        sequences.shard_id,
        parts.document_key,
        models.generation_id,
        models.members,
        sum(parts.self_influence_nats) as self_influence_nats,
        sum(parts.tokens) as tokens,
        count(*) as sequences
    from document_part_self_influence as parts
    inner join models on parts.generation_id = models.generation_id
    inner join sequences on parts.sequence_id = sequences.sequence_id
    where models.members > 1
    group by sequences.shard_id, parts.document_key, models.generation_id, models.members
),

spread as (
    select
        shard_id,
        document_key,
        members,
        avg(self_influence_nats) as self_influence_nats,
        stddev_samp(self_influence_nats) / sqrt(members) as standard_error_nats,
        min(tokens) as tokens,
        min(sequences) as sequences
    from summed
    where isfinite(self_influence_nats)
    group by shard_id, document_key, members
    having count(*) = members and min(sequences) = max(sequences)
)

select
    spread.shard_id,
    documents.document_id,
    documents.external_id,
    documents.title,
    documents.source,
    documents.trained_on,
    spread.members,
    spread.self_influence_nats,
    spread.standard_error_nats,
    spread.self_influence_nats - critical_t(spread.members - 1) * spread.standard_error_nats as low_nats,
    spread.self_influence_nats + critical_t(spread.members - 1) * spread.standard_error_nats as high_nats,
    spread.self_influence_nats / spread.tokens as nats_per_token,
    spread.tokens,
    spread.sequences
from spread
inner join documents on spread.document_key = documents.document_key and spread.shard_id = documents.shard_id;

comment on view ensemble_self_influence is
'The influence of each document on itself, averaged over the members of the study''s ensemble, with an interval from their spread: each member''s values of the document''s parts of sequences are summed before. Documents that some member lacks are left out. Empty if the study has no ensemble, or unless scores.self_influence is on. grain: (shard_id, document_id)';
comment on column ensemble_self_influence.shard_id is 'The shard that the document was read from; see shards.';
comment on column ensemble_self_influence.document_id is 'The document; see documents.';
comment on column ensemble_self_influence.external_id is 'The corpus''s own id of the document.';
comment on column ensemble_self_influence.title is 'The document''s title.';
comment on column ensemble_self_influence.source is 'Where the document comes from, as the corpus says.';
comment on column ensemble_self_influence.trained_on is
'Whether the study''s own model was trained on the document; false if it came later, null if the study brings a model.';
comment on column ensemble_self_influence.members is 'Models of the ensemble, the study''s own among them: K.';
comment on column ensemble_self_influence.self_influence_nats is
'Mean over the members of the document''s influence on itself, in nats; see self_influence_by_document.';
comment on column ensemble_self_influence.standard_error_nats is
'Standard error of that mean, in nats: the standard deviation of the members'' sums, over the square root of K.';
comment on column ensemble_self_influence.low_nats is
'Lower end of the 95 % interval of the expected sum over seeds, in nats, by Student''s t with K - 1 degrees of freedom.';
comment on column ensemble_self_influence.high_nats is 'Upper end of that interval, in nats.';
comment on column ensemble_self_influence.nats_per_token is 'That mean for each token of the document, in nats.';
comment on column ensemble_self_influence.tokens is 'Tokens of the document.';
comment on column ensemble_self_influence.sequences is 'Sequences with part of the document.';
