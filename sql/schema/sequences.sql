-- One training sequence: tokens of one shard, packed to the study's length.
-- grain: (sequence_id)
create table sequences (
    sequence_id bigint not null,
    shard_id varchar not null,
    sequence_index integer not null,
    tokens integer not null,
    text varchar not null,
    trained_on boolean,
    materialization_id bigint not null
);

comment on table sequences is
'One training sequence: tokens of one shard, packed to the study''s length. grain: (sequence_id)';
comment on column sequences.sequence_id is
'Positive 63-bit hash of the shard''s id, the sequence''s number in it and its tokens.';
comment on column sequences.shard_id is 'The shard that it is packed from; see shards.';
comment on column sequences.sequence_index is 'Its number in the shard, from 0.';
comment on column sequences.tokens is 'Tokens in it, without padding.';
comment on column sequences.text is 'The text of its tokens.';
comment on column sequences.trained_on is
'Whether the study''s own model was trained on all of its documents; false if one came later. Null if the study brings a model.';
comment on column sequences.materialization_id is 'The materialization that this row came from; see materializations.';
