-- The influence of one document's part of a training sequence on one query, for each document of a sequence in which
-- several are packed; where a sequence has one document, its score in influence_scores is the document's.
-- current_scores_by_document has both.
-- grain: (generation_id, query_key, sequence_id, document_key)
create table part_scores (
    query_key ubigint not null,
    sequence_id bigint not null,
    document_key ubigint not null,
    generation_id integer not null,
    influence_nats double not null,
    materialization_id bigint not null
);

comment on table part_scores is
'The influence of one document''s part of a training sequence on one query, for each document of a sequence in which several are packed; where a sequence has one document, its score in influence_scores is the document''s. current_scores_by_document has both. grain: (generation_id, query_key, sequence_id, document_key)';
comment on column part_scores.query_key is 'The query; see queries.query_key.';
comment on column part_scores.sequence_id is 'The training sequence; see sequences.';
comment on column part_scores.document_key is 'The document; see documents.document_key.';
comment on column part_scores.generation_id is
'The generation of curvature and weights that the score was computed in; see generations.';
comment on column part_scores.influence_nats is
'The part of the sequence''s score, in nats, that enters through the document''s tokens; positive helps. The parts of a sequence sum to its score. Through attention, the loss of a later document in the sequence reaches tokens of an earlier one and is counted there.';
comment on column part_scores.materialization_id is
'The materialization that this row came from; see materializations.';
