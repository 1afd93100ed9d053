-- Writes the change log of the demo's world: its users, card groups and cards, two changes of a price, the voided cards,
-- and what an operator did with the batches. `ann` is an operator who uses commands, `demo` the account of the console.
insert into change_log (at, who, user_id, operator, what, target_id, target_name, cardgroup_id, number_from, number_till,
    before, after)
select at, case when user_id is not null then (select username from users where users.id = user_id) else coalesce(console, 'command') end,
    user_id, case when user_id is null and console is null then 'ann' end, what, target_id, target_name, cardgroup_id,
    number_from, number_till, before, after
from (select now() at time zone 'utc' as now) clock, lateral (
    -- Users.
    select now - interval '61 days' as at, null::integer as user_id, null as console, 'user' as what, u.id::bigint as target_id,
        u.username as target_name, null::integer as cardgroup_id, null as number_from, null as number_till, null::jsonb as before,
        to_jsonb(u) - 'password' - 'password_argon2' as after
    from users u where u.id between 5 and 8
    union all
    select now - interval '61 days', null, null, 'key', 7, 'Nordic Cards', null, null, null, null, '{"key": "created"}'
    union all
    select now - interval '61 days', null, null, 'tariff', t.id, t.name, null, null, null, null, to_jsonb(t) from tariffs t where t.id = 2
    union all
    -- Settings.
    select now - interval '59 days', null, null, 'setting', 0, 'API_Allow_payments_ower_API', null, null, null, '{"value": "0"}',
        '{"value": "1"}'
    union all
    select now - interval '45 days', null, null, 'currency', id, name, null, null, null, '{"exchange_rate": 0.91}',
        '{"exchange_rate": 0.92}'
    from currencies where name = 'EUR'
    union all
    -- Card groups.
    select now - interval '60 days', coalesce(g.owner_id, 0), null, 'card_group', g.id, g.name, null, null, null, null,
        to_jsonb(t) || to_jsonb(g)
    from cardgroups g join taxes t on t.id = g.tax_id where g.id between 7 and 11
    union all
    select now - make_interval(days => change.days), change.user_id, change.console, 'card_group', g.id, g.name, null, null, null,
        change.before, change.after
    from cardgroups g join (
        values
            (8, 12, 2, null, jsonb_build_object('price', round(18 / 1.19 / 0.92, 15), 'description', '18 EUR'),
                (select jsonb_build_object('price', price, 'description', description) from cardgroups where id = 8)),
            (10, 18, 7, null, jsonb_build_object('price', round(24 / 1.2 / 0.92, 15)),
                (select jsonb_build_object('price', price) from cardgroups where id = 10)),
            (11, 6, null, 'demo', '{"hidden": 0}', '{"hidden": 1}')
    ) change (id, days, user_id, console, before, after) on change.id = g.id
    union all
    -- Cards: each batch was created a day before its first sale.
    select coalesce(min(p.date_added) - interval '1 day', now - interval '13 days'), max(coalesce(g.owner_id, 0)), null, 'card', null,
        min(c.number) || ' - ' || max(c.number), g.id, min(c.number), max(c.number), null,
        jsonb_build_object('distributor', -1, 'batch_number', c.batch_number, 'cards_created', count(*))
    from cards c join cardgroups g on g.id = c.cardgroup_id left join payments p on p.user_id = c.id and p.kind = 'sale'
    where g.id between 7 and 11
    group by g.id, c.batch_number
    union all
    select now - interval '11 days', null, null, 'card', null, min(number) || ' - ' || max(number), cardgroup_id, min(number),
        max(number), null, jsonb_build_object('distributor', 8, 'withheld', 'assigned', 'batch_number', batch_number)
    from cards where withheld = 'assigned' and cardgroup_id = 7 group by cardgroup_id, batch_number
    union all
    select now - interval '3 days', null, null, 'card', null, min(number) || ' - ' || max(number), cardgroup_id, min(number),
        max(number), null, jsonb_build_object('withheld', 'blocked', 'batch_number', batch_number)
    from cards where withheld = 'blocked' and cardgroup_id = 8 group by cardgroup_id, batch_number
    union all
    select refund.date_added, null, null, 'card', c.id, c.number, null, null, null,
        jsonb_build_object('sold', 1, 'balance', -refund.balance_change, 'retired_at', null),
        jsonb_build_object('sold', 0, 'balance', 0, 'retired_at', c.retired_at, 'mails', '[]'::jsonb,
            'voided', case when refund.amount = -sale.amount then 'Sold to the wrong customer' else 'Calls were bad: half refunded' end,
            'refunds', jsonb_build_array(jsonb_build_object('reverses', sale.id, 'amount', plain_text(refund.amount),
                'tax', plain_text(refund.tax), 'currency', refund.currency, 'tax_included', false)))
    from payments refund join payments sale on sale.id = refund.reverses join cards c on c.id = refund.user_id
    where refund.kind = 'refund'
) change
order by at, what, target_id, number_from
