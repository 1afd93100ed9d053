-- Lists the first $3 cards that match the filters $1 (`Search`), from the position $2 (`Position`) on, without the
-- first $4 cards.
--
-- PostgreSQL plans the statement for each execution, and removes the conditions that do not apply. For this it must
-- know the values during planning, so they are read with ->>: it does not call jsonb_to_record before the execution.
select
    c.cardgroup_id, c.id, c.number, c.name, c.pin as "pin: Pin", c.batch_number, c.callerid,
    coalesce(c.balance, 0) as "balance!: Money",
    coalesce(c.min_balance, 0) as "min_balance!: Money",
    coalesce(to_char(c.first_use, 'YYYY-MM-DD HH24:MI:SS'), '') as "first_use!",
    coalesce(to_char(c.daily_charge_paid_till, 'YYYY-MM-DD HH24:MI:SS'), '') as "daily_charge_paid_till!",
    c.sold, c.language,
    coalesce(nullif(btrim(u.first_name || ' ' || u.last_name), ''), u.username) as distributor
from cards c
    join cardgroups g on g.id = c.cardgroup_id
    left join users u on u.id = c.user_id
    cross join (
        select
            ($1::jsonb ->> 'owner')::integer as owner,
            $1 -> 'number' ->> 'exact' as exact_number,
            $1 -> 'number' ->> 'like' as number,
            $1 -> 'pin' ->> 'exact' as exact_pin,
            $1 -> 'pin' ->> 'like' as pin,
            $1 -> 'callerid' ->> 'exact' as exact_callerid,
            $1 -> 'callerid' ->> 'like' as callerid,
            $1 ->> 'name' as name,
            $1 ->> 'batch_number' as batch_number,
            ($1 ->> 'min_balance')::numeric as min_balance,
            ($1 ->> 'max_balance')::numeric as max_balance,
            $1 ->> 'language' as language,
            ($1 ->> 'sold')::smallint as sold,
            ($1 ->> 'distributor')::bigint as distributor
    ) filter
    cross join (
        select
            ($2::jsonb -> 'AfterNumber' ->> 'group')::integer as number_group,
            $2 -> 'AfterNumber' ->> 'number' as number,
            ($2 -> 'AfterUnnumbered' ->> 'group')::integer as unnumbered_group,
            ($2 -> 'AfterUnnumbered' ->> 'id')::bigint as id,
            ($2 -> 'AfterGroup' ->> 'group')::integer as whole_group
    ) after
where c.hidden = 0 and c.quarantined_at is null and g.hidden = 0
    and (filter.owner is null or g.owner_id = filter.owner)
    and (filter.exact_number is null or c.number = filter.exact_number)
    and (filter.number is null or fold_case(c.number) like fold_case(filter.number))
    and (filter.exact_pin is null or c.pin = filter.exact_pin)
    and (filter.pin is null or fold_case(c.pin) like fold_case(filter.pin))
    and (filter.exact_callerid is null or c.callerid = filter.exact_callerid)
    and (filter.callerid is null or fold_case(c.callerid) like fold_case(filter.callerid))
    -- A blocked card is not found by its number, PIN or caller id.
    and (
        c.withheld is distinct from 'blocked'
        or coalesce(
            filter.exact_number, filter.number, filter.exact_pin, filter.pin, filter.exact_callerid, filter.callerid
        ) is null
    )
    and (filter.name is null or fold_case(c.name) like fold_case(filter.name))
    and (filter.batch_number is null or fold_case(c.batch_number) like fold_case(filter.batch_number))
    and (filter.min_balance is null or coalesce(c.balance, 0) >= filter.min_balance)
    and (filter.max_balance is null or coalesce(c.balance, 0) <= filter.max_balance)
    and (filter.language is null or fold_case(c.language) = fold_case(filter.language))
    and (filter.sold is null or c.sold = filter.sold)
    and (filter.distributor is null or c.user_id = filter.distributor)
    and (
        after.number_group is null
        or (c.cardgroup_id, c.number) > (after.number_group, after.number) and c.cardgroup_id <= after.number_group
    )
    and (
        after.unnumbered_group is null
        or c.cardgroup_id = after.unnumbered_group and c.number is null and c.id > after.id
    )
    and (after.whole_group is null or c.cardgroup_id > after.whole_group)
order by
    c.cardgroup_id, c.number,
    -- Numbers of a group are distinct: only cards without a number need the order by id. The index does not have it.
    case when after.number_group is null and after.whole_group is null then c.id end
limit $3 offset $4
