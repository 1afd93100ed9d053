-- The ids of the destination groups with these names, in the order of the names; null for a name without a group.
--
-- `offset 0` keeps the lookup of each name apart: without it, min() would read the primary key until it finds the
-- name.
select (
    select min(same.id) from (
        select id from destinationgroups
        where fold_case(rtrim(name)) = fold_case(rtrim(sent.name))
        offset 0
    ) same
)
from unnest($1::text[]) with ordinality as sent (name, position)
order by position
