-- The score of one document's part of a training sequence for a query by a method other than the main one, for each
-- document of a sequence in which several are packed; only of methods that divide a sequence's score.
-- grain: (generation_id, query_id, sequence_id, document_key, method)
create table method_part_scores (
    query_id varchar not null,
    sequence_id bigint not null,
    document_key ubigint not null,
    generation_id integer,
    method varchar not null,
    unit varchar,
    score double not null,
    materialization_id bigint not null
);

comment on table method_part_scores is
'The score of one document''s part of a training sequence for a query by a method other than the main one, for each document of a sequence in which several are packed; only of methods that divide a sequence''s score. grain: (generation_id, query_id, sequence_id, document_key, method)';
comment on column method_part_scores.query_id is 'The query; see queries.';
comment on column method_part_scores.sequence_id is 'The training sequence; see sequences.';
comment on column method_part_scores.document_key is 'The document; see documents.document_key.';
comment on column method_part_scores.generation_id is
'The generation of curvature and weights that the score was computed beside; see generations. Null where the method uses no curvature.';
comment on column method_part_scores.method is 'The method, such as gradient_dot.';
comment on column method_part_scores.unit is 'The score''s unit, as in method_scores.';
comment on column method_part_scores.score is 'The part''s score, in that unit; positive helps.';
comment on column method_part_scores.materialization_id is
'The materialization that this row came from; see materializations.';
