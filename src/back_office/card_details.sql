-- Reads a card with its group, owner and distributor. $1 the card's id
select c.id, c.number, length(nullif(btrim(c.pin), '')) as pin_length, c.serial, c.batch_number,
    c.cardgroup_id, g.name as cardgroup, g.price as "cardgroup_price: Money",
    coalesce(c.owner_id, 0) as "owner_id!", owner.username as "owner?", card_state(c) as "state!",
    coalesce(c.balance, 0) as "balance!: Money", c.sold = 1 as "sold!", c.hidden <> 0 as "hidden!", c.withheld,
    c.retired_at is not null as "retired!", c.callerid, c.language, c.name,
    case when c.user_id <> -1 then coalesce(distributor.username, 'user ' || c.user_id) end as distributor,
    coalesce(c.call_count, 0) as "call_count!", to_char(c.first_use, 'YYYY-MM-DD HH24:MI:SS') as first_use,
    to_char(c.daily_charge_paid_till, 'YYYY-MM-DD HH24:MI:SS') as daily_charge_paid_till,
    to_char(c.retired_at, 'FMDD Mon YYYY') as retired_on, to_char(c.quarantined_at, 'FMDD Mon YYYY') as quarantined_on,
    to_char(c.first_use, 'FMDD Mon YYYY') as first_used_on, g.hidden <> 0 as "cardgroup_deleted!",
    to_char(g.valid_from, 'YYYY-MM-DD HH24:MI:SS') as valid_from, to_char(g.valid_till, 'YYYY-MM-DD HH24:MI:SS') as valid_till,
    to_char(case when g.valid_from > now() at time zone 'utc' then g.valid_from end, 'FMDD Mon YYYY') as begins_on,
    to_char(case when g.valid_till < now() at time zone 'utc' then g.valid_till end, 'FMDD Mon YYYY') as expired_on,
    -- Days after a hundred years are not reached, and would be out of range.
    to_char(
        case when g.valid_after_first_use > 0 and c.first_use + make_interval(days => least(g.valid_after_first_use, 36500))
            < now() at time zone 'utc' then c.first_use + make_interval(days => g.valid_after_first_use) end, 'FMDD Mon YYYY'
    ) as expired_after_use_on,
    coalesce(g.valid_after_first_use, 0) as "valid_after_first_use!",
    (select min(rule) from import_findings where "table" = 'cards' and import_findings.id = c.id) as import_rule
from cards c
    join cardgroups g on g.id = c.cardgroup_id
    left join users owner on owner.id = coalesce(c.owner_id, 0)
    left join users distributor on distributor.id = c.user_id
where c.id = $1
