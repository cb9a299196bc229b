-- The influence on itself of one document's part of a training sequence, for each document of a sequence in which
-- several are packed; where a sequence has one document, its row in self_influence is the document's.
-- grain: (generation_id, sequence_id, document_key)
create table self_influence_parts (
    sequence_id bigint not null,
    document_key ubigint not null,
    generation_id integer not null,
    self_influence_nats double not null,
    materialization_id bigint not null
);

comment on table self_influence_parts is
'The influence on itself of one document''s part of a training sequence, for each document of a sequence in which several are packed; where a sequence has one document, its row in self_influence is the document''s. grain: (generation_id, sequence_id, document_key)';
comment on column self_influence_parts.sequence_id is 'The training sequence; see sequences.';
comment on column self_influence_parts.document_key is 'The document; see documents.document_key.';
comment on column self_influence_parts.generation_id is
'The generation of curvature and weights that it was computed in; see generations.';
comment on column self_influence_parts.self_influence_nats is
'That of the part of the sequence''s gradient, in nats, that enters through the document''s tokens; never negative. The parts of a sequence do not sum to its own, because they also have influence on one another.';
comment on column self_influence_parts.materialization_id is
'The materialization that this row came from; see materializations.';
