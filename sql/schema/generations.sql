-- One fit of the curvature to one set of weights. Scores of different generations are not comparable.
-- grain: (generation_id)
create table generations (
    generation_id integer not null,
    weights_hash varchar not null,
    model_path varchar not null,
    tokenizer_hash varchar not null,
    dtype varchar not null,
    fisher varchar not null,
    damping_scale double not null,
    sequence_length_tokens integer not null,
    training_sequences bigint not null,
    training_tokens bigint not null,
    attributed_parameters bigint not null,
    total_parameters bigint not null,
    created_at timestamptz not null,
    is_current boolean not null,
    member integer not null,
    materialization_id bigint not null
);

comment on table generations is
'One fit of the curvature to one set of weights. Scores of different generations are not comparable. grain: (generation_id)';
comment on column generations.generation_id is '1, 2, ... in the order in which they were fitted.';
comment on column generations.weights_hash is 'Hash of the model''s weights.';
comment on column generations.model_path is 'Where the model was loaded from.';
comment on column generations.tokenizer_hash is 'Hash of the tokenizer.';
comment on column generations.dtype is 'Precision of the model''s passes: float32, bfloat16 or float64.';
comment on column generations.fisher is
'true: labels sampled from the model (the Gauss-Newton Hessian); empirical: labels of the text.';
comment on column generations.damping_scale is
'Damping of a layer as a multiple of the mean of its corrected eigenvalues.';
comment on column generations.sequence_length_tokens is 'Tokens in a full training sequence.';
comment on column generations.training_sequences is 'N: the training sequences that one more copy is added to.';
comment on column generations.training_tokens is 'Tokens of those sequences, without padding.';
comment on column generations.attributed_parameters is 'Parameters of the layers that are attributed.';
comment on column generations.total_parameters is 'All parameters of the model.';
comment on column generations.created_at is 'When the curvature was finished.';
comment on column generations.is_current is 'Whether the views show this generation; true of one row.';
comment on column generations.member is
'The member of the study''s ensemble that it was fitted to: 0 is the study''s own model, then 1, 2, ....';
comment on column generations.materialization_id is
'The materialization that this row came from; see materializations.';
