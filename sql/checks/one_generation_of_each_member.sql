-- Further members of the study's ensemble of which several generations are published.
-- grain: (member)
select
    member,
    count(*) as generations
from generations
where member > 0
group by member
having count(*) > 1;
