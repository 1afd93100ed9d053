-- The custom rates of a user ($2; null: none are listed), then the rates of a retail tariff ($1): a row for each price,
-- or one for a rate without prices. A group with a custom rate is left out of the tariff's rates.
select is_custom as "is_custom!", rate_id as "rate_id!", group_name, "from" as "from_second", duration, artype, round, price as "price: Money",
    start_time::text as "start_time", end_time::text as "end_time", daytype
from (
    select true as is_custom, c.id::bigint as rate_id, g.id as group_id, g.name as group_name, a.id as price_id,
        a."from", a.duration, a.artype, a.round, a.price, a.start_time, a.end_time, a.daytype
    from customrates c
    join destinationgroups g on g.id = c.destinationgroup_id
    left join acustratedetails a on a.customrate_id = c.id
    where c.user_id = $2
    union all
    select false, r.id, g.id, g.name, a.id,
        a."from", a.duration, a.artype, a.round, a.price, a.start_time, a.end_time, a.daytype
    from rates r
    join destinationgroups g on g.id = r.destinationgroup_id
    left join aratedetails a on a.rate_id = r.id
    where r.tariff_id = $1
        and not exists (select from customrates c where c.user_id = $2 and c.destinationgroup_id = r.destinationgroup_id)
) listed
order by is_custom desc, fold_case(group_name) collate "C" nulls first, group_id, rate_id,
    coalesce(daytype, '') collate "C", start_time nulls first, "from" nulls first, price_id
