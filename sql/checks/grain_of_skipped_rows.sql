-- Rows of skipped_rows that occur more than once.
-- grain: (shard_id, source_row)
select
    shard_id,
    source_row,
    count(*) as copies
from skipped_rows
group by shard_id, source_row
having count(*) > 1;
