-- The influence of each document's part of each training sequence on each query, in the current generation. The parts
-- of a sequence sum to its score in current_scores.
-- grain: (query_id, sequence_id, document_key)
create view current_scores_by_document as
with undivided as (
    select
        sequence_id,
        min(document_key) as document_key
    from sequence_documents
    group by sequence_id
    having min(document_key) = max(document_key)
)

select
    current_scores.query_id,
    current_scores.sequence_id,
    undivided.document_key,
    current_scores.generation_id,
    current_scores.influence_nats,
    current_scores.materialization_id
from current_scores
inner join undivided on current_scores.sequence_id = undivided.sequence_id
union all
select
    queries.query_id,
    part_scores.sequence_id,
    part_scores.document_key,
    part_scores.generation_id,
    part_scores.influence_nats,
    part_scores.materialization_id
from part_scores
inner join queries on part_scores.query_key = queries.query_key
where
    part_scores.generation_id in (
        select generations.generation_id
        from generations
        where generations.is_current
    );

comment on view current_scores_by_document is
'The influence of each document''s part of each training sequence on each query, in the current generation. The parts of a sequence sum to its score in current_scores. grain: (query_id, sequence_id, document_key)';
comment on column current_scores_by_document.query_id is 'The query; see queries.';
comment on column current_scores_by_document.sequence_id is 'The training sequence; see sequences.';
comment on column current_scores_by_document.document_key is 'The document; see documents.document_key.';
comment on column current_scores_by_document.generation_id is 'The current generation; see generations.';
comment on column current_scores_by_document.influence_nats is
'The part of the sequence''s score, in nats, that enters through the document''s tokens; positive helps. Through attention, the loss of a later document in the sequence reaches tokens of an earlier one and is counted there.';
comment on column current_scores_by_document.materialization_id is 'The materialization of the score; see materializations.';
