-- Rows of fitted_calibration that occur more than once.
-- grain: (c)
select
    c,
    count(*) as copies
from fitted_calibration
group by c
having count(*) > 1;
