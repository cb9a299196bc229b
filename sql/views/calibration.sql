-- The constant of calibrated scores: fitted to the study's retrained models, or else the default.
-- grain: (c)
create view calibration as
select
    coalesce(max(c), 10.0) as c,
    count(*) > 0 as is_fitted,
    max(queries) as queries
from fitted_calibration;

comment on view calibration is
'The constant of calibrated scores: fitted to the study''s retrained models, or else the default. grain: (c)';
comment on column calibration.c is
'The c of S² / (S + c·sigma). The default, 10, was found on 47 questions of the demo''s recipe, judged by retraining.';
comment on column calibration.is_fitted is 'Whether it was fitted to the study''s own retrained models.';
comment on column calibration.queries is 'Queries that it was fitted to; null for the default.';
