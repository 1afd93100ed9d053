-- Sells the cards with the ids $1, which the transaction has locked, if they are free. sell_one.sql explains the shape.
-- A withheld card is sold too: by the first use of its PIN. A sale from the stock or by a number does not pick one.
--
-- $2 owner of the group (null: owner and visibility of the group are not checked), $3 caller, $4 group
-- $5 currency of the payment (null: the group's), $6 rate to the currency of the balances in the reply: $5, or the
-- caller's currency if $5 is null
-- $7 whether each card gets the audit row of card_from_group_sell, $8 the client's reference of the payments
with picked as materialized (
    select cardgroup.*, card.*
    from (
        select g.id as cardgroup_id, g.owner_id, g.disable_voucher,
            coalesce((select single_tax_rate(t) from taxes t where t.id = g.tax_id), effective_tax_rate(g.tax_id, g.owner_id)) as tax_rate,
            coalesce($5, g.tell_balance_in_currency, '') as currency,
            $6::numeric * case when $5 is null then exchange_rate_to(g.tell_balance_in_currency) else 1 end as rate
        from cardgroups g
        where g.id = $4 and ($2::integer is null or g.owner_id = $2 and g.hidden = 0)
        offset 0
    ) cardgroup, lateral (
        select id, number, pin, coalesce(balance, 0) as balance
        from cards
        where id = any ($1::bigint[]) and sold = 0 and hidden = 0 and retired_at is null and quarantined_at is null
        order by number collate "C", id
    ) card
), sale as materialized (
    select nextval('payments_id_seq') as payment_id, id, number, pin, balance, multiply_rounded(balance, rate) as amount,
        owner_id, tax_rate, currency, case when disable_voucher = 1 then number end as voucher_number,
        now() at time zone 'utc' as now
    from picked
), marked as (
    update cards set sold = 1, active = 1 where id = any (array(select id from sale))
), payment as (
    insert into payments (id, paymenttype, kind, amount, currency, tax, user_id, owner_id, card, completed, date_added,
        shipped_at, description, caller_id, reference)
    select payment_id, 'Card', 'sale', amount, currency, amount * tax_rate, id, owner_id, 1, 1, now, now, '', $3, $8
    from sale
), action as (
    insert into actions (user_id, date, action, target_type, target_id, data, data2, data3)
    select $3, now, row.*
    from sale, lateral (
        select 'card_payment_created', 'Payment', payment_id, id::text, plain_text(amount), currency
        union all
        select 'Disable_Voucher_when_Card_is_used', 'Voucher', voucher_id, number, id::text, null
        from redeem_vouchers(voucher_number)
        union all
        select 'card_sell_over_api', 'Card', id, '', '', null where $7
    ) row
)
select 1::bigint as "order_number!", id as "id!", number as "number!", pin as "pin: Pin", multiply_rounded(balance, $6) as "balance!: Money" from sale
