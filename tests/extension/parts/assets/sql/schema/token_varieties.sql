-- How varied the tokens of a training sequence are.
-- grain: (sequence_id)
create table token_varieties (
    sequence_id bigint not null,
    distinct_tokens integer not null,
    entropy_bits double not null,
    materialization_id bigint not null
);

comment on table token_varieties is 'How varied the tokens of a training sequence are. grain: (sequence_id)';
comment on column token_varieties.sequence_id is 'The training sequence; see sequences.';
comment on column token_varieties.distinct_tokens is 'How many different tokens it has.';
comment on column token_varieties.entropy_bits is 'Entropy of its tokens, in bits.';
comment on column token_varieties.materialization_id is
'The materialization that this row came from; see materializations.';
