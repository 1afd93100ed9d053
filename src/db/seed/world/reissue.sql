-- Replaces a used card of the group 8, which a customer has lost, by the next free card, as `mortise card reissue` does.
with clock as (
    select now() at time zone 'utc' - interval '9 minutes' as at
), old as (
    select * from cards
    where cardgroup_id = 8 and sold = 1 and first_use < now() at time zone 'utc' - interval '1 day' and callerid is null
    order by number desc limit 1
), new as (
    select c.* from card_stock s join cards c on c.id = s.card_id where s.cardgroup_id = 8 order by s.number limit 1
), retired as (
    update cards set balance = 0, sold = 0, retired_at = at from old, clock where cards.id = old.id
), issued as (
    update cards set balance = old.balance, sold = 1, active = 1, first_use = old.first_use from old, new where cards.id = new.id
), payment as (
    insert into payments (paymenttype, kind, amount, currency, tax, user_id, owner_id, card, completed, date_added, shipped_at,
        description, replaces_card, balance_change)
    select 'Card', 'reissue', 0, 'EUR', 0, new.id, 0, 1, 1, at, at, '', old.id, -new.balance from old, new, clock
    returning id, user_id
), action as (
    insert into actions (user_id, date, action, target_type, target_id, data, data2, data3)
    select 0, at, 'card_payment_created', 'Payment', id, user_id::text, '0.0', 'EUR' from payment, clock
)
insert into change_log (at, who, operator, what, target_id, target_name, before, after)
select at, 'command', 'ann', 'card', change.*
from old, new, clock, lateral (
    values
        (
            old.id, old.number, jsonb_build_object('sold', 1, 'balance', old.balance, 'retired_at', null),
            jsonb_build_object('sold', 0, 'balance', 0, 'retired_at', at, 'replaced_by', new.number, 'reason', 'The card was lost')
        ),
        (
            new.id, new.number, jsonb_build_object('sold', 0, 'active', 0, 'balance', new.balance, 'first_use', null),
            jsonb_build_object('sold', 1, 'active', 1, 'balance', old.balance, 'first_use', old.first_use, 'replaces', old.number,
                'reason', 'The card was lost')
        )
) change
