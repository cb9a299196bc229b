-- Rows of solver_residuals that occur more than once.
-- grain: (query_id, method, iteration)
select
    query_id,
    method,
    iteration,
    count(*) as copies
from solver_residuals
group by query_id, method, iteration
having count(*) > 1;
