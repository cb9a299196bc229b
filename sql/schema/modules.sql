-- An attributed linear layer in one generation.
-- grain: (generation_id, module_name)
create table modules (
    generation_id integer not null,
    module_name varchar not null,
    input_width integer not null,
    output_width integer not null,
    has_output_factor boolean,
    parameters bigint not null,
    mean_eigenvalue double not null,
    damping double not null,
    covariance_tokens bigint not null,
    fit_sequences bigint not null,
    materialization_id bigint not null
);

comment on table modules is 'An attributed linear layer in one generation. grain: (generation_id, module_name)';
comment on column modules.generation_id is
'The generation of curvature and weights that it was fitted in; see generations.';
comment on column modules.module_name is 'The layer''s name in the model.';
comment on column modules.input_width is 'Width of its input.';
comment on column modules.output_width is 'Width of its output.';
comment on column modules.has_output_factor is
'Whether its outputs have a factor S, as those of all layers have but an embedding, whose rows are left as they are. Null in generations of earlier releases.';
comment on column modules.parameters is 'Its parameters, bias included.';
comment on column modules.mean_eigenvalue is 'Mean of its corrected eigenvalues.';
comment on column modules.damping is 'What is added to each corrected eigenvalue before it is inverted.';
comment on column modules.covariance_tokens is 'Tokens that its covariances were taken over.';
comment on column modules.fit_sequences is 'Sequences that its corrected eigenvalues were taken over.';
comment on column modules.materialization_id is 'The materialization that this row came from; see materializations.';
