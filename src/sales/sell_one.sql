-- Sells the next free cards of one group: $6 cards, or none if fewer are free. The statement writes everything that a
-- sale writes, and stores the reply if the order has an idempotency key, so the sale is atomic.
--
-- $1 group, $2 owner of the group, $3 caller, $4 currency of the payment, $5 rate to it, $6 number of cards
-- $7 key (null: none), $8 fingerprint of the request
--
-- The cards are picked in a materialized CTE and updated by "any (array(…))": in any other shape the planner may run
-- the locking subquery again, and sell more cards than ordered. "skip locked" passes over cards that concurrent sales
-- have locked, so no sale waits for another. "+ 0" makes the planner look up each card by its id; otherwise it may
-- read the whole group, depending on the table's statistics. "offset 0" keeps the group's columns from being computed
-- again for each card. All parts process the cards in the order in which they were picked.
--
-- If the key is known, nothing is sold: the request is answered from the stored reply. If another server inserts the key
-- at the same time, the statement fails and changes nothing. It waits for that server for 100 ms at most, because it
-- holds one of the few permits of the caller.
with picked as materialized (
    select cardgroup.*, card.*
    from (
        select g.id as cardgroup_id, g.owner_id, g.disable_voucher,
            coalesce((select single_tax_rate(t) from taxes t where t.id = g.tax_id), effective_tax_rate(g.tax_id, g.owner_id)) as tax_rate
        from cardgroups g
        where g.id = $1 and g.owner_id = $2 and g.hidden = 0
            and not exists (
                select from idempotency_keys known
                where known.user_id = $3 and known.operation = 'card_from_group_sell' and known.key = $7::text)
        offset 0
    ) cardgroup, lateral (
        select c.id, c.number, c.pin, coalesce(c.balance, 0) as balance
        from card_stock s join cards c on c.id = s.card_id
        where s.cardgroup_id = cardgroup.cardgroup_id and c.cardgroup_id + 0 = s.cardgroup_id and is_in_stock(c)
        order by s.number, s.card_id
        limit $6
        for no key update of c skip locked
    ) card
), sale as materialized (
    select nextval('payments_id_seq') as payment_id, id, number, pin, balance, multiply_rounded(balance, $5::numeric) as amount,
        cardgroup_id, owner_id, tax_rate, case when disable_voucher = 1 then number end as voucher_number,
        now() at time zone 'utc' as now
    from picked
    -- None, if fewer than $6 were picked.
    where (select true from picked offset $6 - 1 limit 1)
), marked as (
    update cards set sold = 1, active = 1 where id = any (array(select id from sale))
), payment as (
    insert into payments (id, paymenttype, kind, amount, currency, tax, user_id, owner_id, card, completed, date_added,
        shipped_at, description, caller_id)
    select payment_id, 'Card', 'sale', amount, $4::text, amount * tax_rate, id, owner_id, 1, 1, now, now, '', $3
    from sale
), action as (
    insert into actions (user_id, date, action, target_type, target_id, data, data2, data3)
    select $3, now, row.*
    from sale, lateral (
        select 'card_payment_created', 'Payment', payment_id, id::text, plain_text(amount), $4::text
        union all
        select 'Disable_Voucher_when_Card_is_used', 'Voucher', voucher_id, number, id::text, null
        from redeem_vouchers(voucher_number)
        union all
        select 'card_sell_over_api', 'Card', id, '', '', null
    ) row
), stored_reply as (
    insert into idempotency_keys (user_id, operation, key, fingerprint, reply)
    select $3, 'card_from_group_sell', $7, $8::bytea,
        json_build_object('Done', json_build_object('currency', $4::text, 'cards',
            json_agg(json_build_object('number', number, 'pin', pin, 'balance', amount::text))))
    from sale
    -- Sets the timeout before the row is inserted: the condition is evaluated first.
    where (select set_config('lock_timeout', '100ms', true) where $7 is not null) is not null
    having count(*) > 0
)
select 1::bigint as "order_number!", id as "id!", number as "number!", pin as "pin: Pin", amount as "balance!: Money" from sale
