-- Rows of catalogue that occur more than once.
-- grain: (study)
select
    study,
    count(*) as copies
from catalogue
group by study
having count(*) > 1;
