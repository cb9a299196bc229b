-- Links that are missing on the way from a score, of any generation, to its documents, run, code version and weights,
-- and manifests of what it was computed from, directly or not.
-- grain: (missing, id)
with recursive score_sources as (
    select distinct
        materialization_id,
        generation_id
    from influence_scores
),

scored_sequences as (
    select distinct sequence_id
    from influence_scores
),

led_from as (
    select materialization_id
    from score_sources
    union
    select materialization_inputs.input_materialization_id as materialization_id
    from led_from
    inner join materialization_inputs on led_from.materialization_id = materialization_inputs.materialization_id
)

select
    'materialization' as missing,
    led_from.materialization_id::varchar as id
from led_from
left join materializations on led_from.materialization_id = materializations.materialization_id
where materializations.materialization_id is null
union
select
    'run or code version' as missing,
    score_sources.materialization_id::varchar as id
from score_sources
inner join materializations on score_sources.materialization_id = materializations.materialization_id
where materializations.run_id is null or materializations.code_version = ''
union
select
    'inputs' as missing,
    score_sources.materialization_id::varchar as id
from score_sources
left join materialization_inputs on score_sources.materialization_id = materialization_inputs.materialization_id
where materialization_inputs.materialization_id is null
union
select
    'weights of generation' as missing,
    score_sources.generation_id::varchar as id
from score_sources
left join generations on score_sources.generation_id = generations.generation_id
where coalesce(generations.weights_hash, '') = ''
union
select
    'documents of sequence' as missing,
    scored_sequences.sequence_id::varchar as id
from scored_sequences
left join sequences on scored_sequences.sequence_id = sequences.sequence_id
left join sequence_documents on scored_sequences.sequence_id = sequence_documents.sequence_id
left join documents
    on sequences.shard_id = documents.shard_id and sequence_documents.document_id = documents.document_id
where documents.document_id is null
union
select
    'shard of sequence' as missing,
    scored_sequences.sequence_id::varchar as id
from scored_sequences
inner join sequences on scored_sequences.sequence_id = sequences.sequence_id
left join shards on sequences.shard_id = shards.shard_id
where shards.shard_id is null;
