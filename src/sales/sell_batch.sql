-- Sells the next free cards of one or several groups for several orders, and stores the replies of the orders that have
-- an idempotency key. It sells all cards that the orders of a group need, or none of that group. sell_one.sql explains
-- the shape of the statement.
--
-- $1 the orders (`BatchOrder`), $2 owner of the groups, $3 caller
-- $4 currency of the balances in the reply, $5 rate to it
-- $6 the payment is in the currency of the group, not in $4
-- $7 sell no card of a group without a tax row, or if one of its picked cards is not sellable
--
-- An order whose key is known gets no cards: its request is answered from the stored reply. The last part inserts the
-- replies. If another server inserts one of the keys at the same time, the statement fails and changes nothing. It
-- waits for that server for 100 ms at most, because the other orders wait too. All statements insert keys in the same
-- order, so that they do not deadlock. The condition on known keys is not "not exists (…)", for which PostgreSQL may
-- read all keys of the caller into a hash table.
with admitted as materialized (
    select ordered.*, (sum(quantity) over (partition by group_id order by number))::bigint as last_position
    from rows from (
        jsonb_to_recordset($1) as (group_id integer, quantity bigint, key text, fingerprint text, reference text)
    ) with ordinality ordered (group_id, quantity, key, fingerprint, reference, number)
    where key is null or (
        select true from idempotency_keys known
        where known.user_id = $3 and known.operation = 'card_from_group_sell' and known.key = ordered.key) is null
), picked as materialized (
    select cardgroup.*, quantity, card.*
    from (select group_id, sum(quantity)::bigint as quantity from admitted group by group_id) ordered, lateral (
        select g.id as cardgroup_id, g.owner_id, g.disable_voucher, g.pin_length, g.number_length,
            coalesce(case when t.id is not null then single_tax_rate(t) end, effective_tax_rate(g.tax_id, g.owner_id)) as tax_rate,
            case when $6::boolean then coalesce(g.tell_balance_in_currency, '') else $4::text end as currency,
            $5::numeric * case when $6 then exchange_rate_to(g.tell_balance_in_currency) else 1 end as rate
        from cardgroups g left join taxes t on t.id = g.tax_id
        where g.id = ordered.group_id and g.owner_id = $2 and g.hidden = 0 and (t.id is not null or not $7::boolean)
        offset 0
    ) cardgroup, lateral (
        select row_number() over () as position, count(*) filter (where sellable) over () as sellable_count, free.*
        from (
            select c.id, c.number, c.pin, coalesce(c.balance, 0) as balance,
                not $7 or is_sellable(c, cardgroup.pin_length, cardgroup.number_length) as sellable
            from card_stock s join cards c on c.id = s.card_id
            where s.cardgroup_id = cardgroup.cardgroup_id and c.cardgroup_id + 0 = s.cardgroup_id and is_in_stock(c)
            order by s.number, s.card_id
            limit quantity
            for no key update of c skip locked
        ) free
    ) card
), sale as materialized (
    select nextval('payments_id_seq') as payment_id, id, number, pin, balance, multiply_rounded(balance, rate) as amount,
        cardgroup_id, position, owner_id, tax_rate, currency,
        case when disable_voucher = 1 then number end as voucher_number, now() at time zone 'utc' as now
    from picked
    where sellable_count = quantity
), marked as (
    update cards set sold = 1, active = 1 where id = any (array(select id from sale))
), action as (
    insert into actions (user_id, date, action, target_type, target_id, data, data2, data3)
    select $3, now, row.*
    from sale, lateral (
        select 'card_payment_created', 'Payment', payment_id, id::text, plain_text(amount), currency
        union all
        select 'Disable_Voucher_when_Card_is_used', 'Voucher', voucher_id, number, id::text, null
        from redeem_vouchers(voucher_number)
        union all
        select 'card_sell_over_api', 'Card', id, '', '', null
    ) row
), assigned as materialized (
    select admitted.number as order_number, key, fingerprint, reference, position, sale.id, sale.number, pin,
        multiply_rounded(balance, $5) as balance, payment_id, amount, currency, tax_rate, owner_id, now
    from admitted join sale
        on sale.cardgroup_id = admitted.group_id and position > last_position - admitted.quantity and position <= last_position
), payment as (
    insert into payments (id, paymenttype, kind, amount, currency, tax, user_id, owner_id, card, completed, date_added,
        shipped_at, description, caller_id, reference)
    select payment_id, 'Card', 'sale', amount, currency, amount * tax_rate, id, owner_id, 1, 1, now, now, '', $3, reference
    from assigned
), stored_reply as (
    insert into idempotency_keys (user_id, operation, key, fingerprint, reply)
    select $3, 'card_from_group_sell', key, decode(fingerprint, 'hex'),
        json_build_object('Done', json_build_object('currency', $4, 'cards',
            json_agg(json_build_object('number', number, 'pin', pin, 'balance', balance::text) order by position)))
    from assigned
    where key is not null
        and (select set_config('lock_timeout', '100ms', true) from admitted where key is not null limit 1) is not null
    group by key, fingerprint
    order by key collate "C"
)
select order_number as "order_number!", id as "id!", number as "number!", pin as "pin: Pin", balance as "balance!: Money"
from assigned
order by order_number, position
