-- The constant of calibrated scores that was fitted to the study's retrained models, if there are enough of them.
-- grain: (c)
create table fitted_calibration (
    c double not null,
    queries integer not null,
    subsets integer not null,
    materialization_id bigint not null
);

comment on table fitted_calibration is
'The constant of calibrated scores that was fitted to the study''s retrained models, if there are enough of them. grain: (c)';
comment on column fitted_calibration.c is
'The c of S² / (S + c·sigma) whose scores explain most of the measured changes'' variance, in the mean over queries.';
comment on column fitted_calibration.queries is 'Queries that it was fitted to.';
comment on column fitted_calibration.subsets is 'Subsets of the corpus that models were trained again on.';
comment on column fitted_calibration.materialization_id is
'The materialization that this row came from; see materializations.';
