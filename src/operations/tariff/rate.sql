-- The prices of a user for the prefixes of a number: a row for each destination, the longest prefix first.
-- $1: the user. $2: the number's prefixes. $3: only the longest prefix, and the first price of its destination; otherwise
-- all prefixes, and all prices of a retail tariff, in the order of day and time (up to one more than can be shown).
select d.prefix, coalesce(d.name, '') as "name!", g.id is not null as "has_group!", t.purpose = 'user' as "is_retail",
    -- The user's own prices, instead of those of the retail tariff.
    case when t.purpose = 'user' then array(
        select coalesce(a.price, 0)
        from acustratedetails a
        where a.customrate_id = any (array(
            select c.id from customrates c where c.user_id = u.id and c.destinationgroup_id = g.id))
        order by case when not $3 then coalesce(a.daytype, '') collate "C" end,
            case when not $3 then a.start_time end nulls first, case when not $3 then a."from" end nulls first, a.id
        limit case when $3 then 1 else 1001 end
    ) end as "custom_prices",
    case when t.purpose = 'user' then array(
        select coalesce(a.price, 0)
        from aratedetails a
        where a.rate_id = (
            select r.id from rates r
            where r.tariff_id = t.id and r.destinationgroup_id = g.id
                and (r.effective_from is null or r.effective_from <= now() at time zone 'utc')
            order by r.effective_from desc nulls last, r.id desc limit 1)
        order by case when not $3 then coalesce(a.daytype, '') collate "C" end,
            case when not $3 then a.start_time end nulls first, case when not $3 then a."from" end nulls first, a.id
        limit case when $3 then 1 else 1001 end
    ) else array(
        select coalesce(a.rate, 0)
        from ratedetails a
        where a.rate_id = (
            select r.id from rates r
            where r.tariff_id = t.id and r.destination_id = d.id
                and (r.effective_from is null or r.effective_from <= now() at time zone 'utc')
            order by r.effective_from desc nulls last, r.id desc limit 1)
        -- Not by the bare id: the planner could then read the primary key from its start to the first row of the rate.
        order by a.id + 0 limit 1
    ) end as "prices!"
from (
    select id, prefix, name, destinationgroup_id from destinations where prefix = any ($2)
    order by length(prefix) desc limit case when $3 then 1 end
) d
-- Admins and accountants have no prices.
left join users u on u.id = $1 and u.usertype not in ('admin', 'accountant')
left join tariffs t on t.id = u.tariff_id
left join destinationgroups g on g.id = d.destinationgroup_id
order by length(d.prefix) desc
