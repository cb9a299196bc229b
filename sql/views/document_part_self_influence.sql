-- The influence on itself of each document's part of each training sequence, in every generation. A sequence of one
-- document is a part of it. Empty unless scores.self_influence is on.
-- grain: (generation_id, sequence_id, document_key)
create view document_part_self_influence as
with spans as (
    select
        sequence_id,
        document_key,
        sum(token_end - token_start) as tokens,
        count(*) over (partition by sequence_id) as documents
    from sequence_documents
    group by sequence_id, document_key
)

select
    self_influence.generation_id,
    self_influence.sequence_id,
    spans.document_key,
    spans.tokens,
    self_influence.self_influence_nats
from self_influence
inner join spans on self_influence.sequence_id = spans.sequence_id
where spans.documents = 1
union all
select
    self_influence_parts.generation_id,
    self_influence_parts.sequence_id,
    self_influence_parts.document_key,
    spans.tokens,
    self_influence_parts.self_influence_nats
from self_influence_parts
inner join spans
    on
        self_influence_parts.sequence_id = spans.sequence_id
        and self_influence_parts.document_key = spans.document_key;

comment on view document_part_self_influence is
'The influence on itself of each document''s part of each training sequence, in every generation. A sequence of one document is a part of it. Empty unless scores.self_influence is on. grain: (generation_id, sequence_id, document_key)';
comment on column document_part_self_influence.generation_id is
'The generation of curvature and weights that it was computed in; see generations.';
comment on column document_part_self_influence.sequence_id is 'The training sequence; see sequences.';
comment on column document_part_self_influence.document_key is 'The document; see documents.document_key.';
comment on column document_part_self_influence.tokens is 'Tokens of the document in the sequence.';
comment on column document_part_self_influence.self_influence_nats is
'First-order change of the part''s own log-likelihood, in nats, if the part were added once more; never negative.';
