-- How far a method that solves for a query's vector step by step is from the solution after an iteration. Empty unless
-- the study scores with such a method.
-- grain: (query_id, method, iteration)
create table solver_residuals (
    query_id varchar not null,
    method varchar not null,
    iteration integer not null,
    passes double not null,
    sequences bigint not null,
    relative_residual double not null,
    objective double not null,
    materialization_id bigint not null
);

comment on table solver_residuals is
'How far a method that solves for a query''s vector step by step is from the solution after an iteration. Empty unless the study scores with such a method. grain: (query_id, method, iteration)';
comment on column solver_residuals.query_id is 'The query; see queries.';
comment on column solver_residuals.method is 'The method, such as conjugate_gradients.';
comment on column solver_residuals.iteration is
'How many iterations the vector has behind it. A query that is near enough has no later ones.';
comment on column solver_residuals.passes is
'The passes over the drawn training sequences that these iterations took for this query, without those that only measure.';
comment on column solver_residuals.sequences is
'How many sequences the Gauss-Newton Hessian is the mean over that the residual is measured against: all that were drawn, or an iteration''s batch, whose noise is then in it.';
comment on column solver_residuals.relative_residual is
'Norm of (G + damping) P - V over that of V, for the query''s gradient V; 1 for P = 0, and 0 for the solution.';
comment on column solver_residuals.objective is
'Half of P(G + damping)P minus VP, which the solution minimises; 0 for P = 0.';
comment on column solver_residuals.materialization_id is
'The materialization that this row came from; see materializations.';
