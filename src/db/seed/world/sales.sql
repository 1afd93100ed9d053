-- Creates the sold cards of the demo's world, with their payments and audit rows: six weeks of sales, top-ups and voids
-- until now. Everything but the PINs follows from the time and the numbers below. Each payment has the row of `actions`
-- that a sale, a top-up or a void writes.
--
-- $1 PINs
with clock as (
    select now() at time zone 'utc' as now
), cardgroup (id, first_number, batch, owner_id, currency, rate, tax_rate, old_price, price, price_age, per_day, weekend) as (
    -- Prices with tax, in the group's currency; the days since the price was changed; cards sold on a day, and how many
    -- more or fewer on a day of the weekend.
    values
        (7, 7000000000, 'A', 0, 'USD', 1.0, 0.19, 5.0, 5.0, 0, 44, 14),
        (8, 8000000000, 'B', 0, 'EUR', 0.92, 0.19, 18.0, 20.0, 12, 18, 7),
        (9, 9000000000, 'N', 7, 'USD', 1.0, 0.20, 10.0, 10.0, 0, 12, -5),
        (10, 6000000000, 'T', 7, 'EUR', 0.92, 0.20, 24.0, 25.0, 18, 5, 3)
), day as (
    select cardgroup.*, now, day, per_day - day * per_day / 120 + (day * 7 + id) % 5 - 2
        + case when extract(isodow from now - make_interval(days => day)) >= 6 then weekend else 0 end as quantity
    from cardgroup, clock, generate_series(0, 41) day
), timed as (
    select day.*, now - make_interval(days => day) - ((nth - 0.5) / quantity)::double precision * interval '1 day' as sold_at,
        case when owner_id <> 0 then owner_id when (nth * 3 + day) % 5 < 3 then 5 else 6 end as seller_id
    from day, generate_series(1, quantity) nth
), numbered as (
    select timed.*, (row_number() over (partition by id order by sold_at))::integer as position,
        row_number() over (order by sold_at, id) as nth_card,
        round(case when sold_at < now - make_interval(days => price_age) then old_price else price end / (1 + tax_rate) / rate, 15)
            as face
    from timed
), fated as (
    -- Some cards are voided, with a refund of the whole price or of half of it; some are topped up by 10 EUR.
    select numbered.*,
        case
            when sold_at > now - interval '5 hours' then null
            when id = 7 and position % 211 = 100 or id = 9 and position % 150 = 40 then 1.0
            when id = 8 and position % 193 = 50 then 0.5
        end as refunded,
        id = 8 and position % 17 = 5 and sold_at < now - interval '40 hours' as is_topped_up,
        sold_at + make_interval(hours => position * 53 % 90) as first_use
    from numbered
), used as (
    select fated.*, position % 3 <> 0 and first_use < now and coalesce(refunded, 0) <> 1 as is_used
    from fated
), sale as materialized (
    select used.*, (first_number + position)::text as number,
        case when is_used then round(face * (100 - position * 37 % 96) / 100, 15) else face end as left_balance,
        case when is_topped_up and refunded is null then divide_rounded(10, (1 + tax_rate) * rate) else 0 end as added
    from used
), card as (
    insert into cards (cardgroup_id, number, pin, balance, sold, active, owner_id, batch_number, serial, callerid, first_use,
        call_count, retired_at)
    select id, number, pin, case when refunded is null then left_balance + added else 0 end,
        case when refunded is null then 1 else 0 end, 1, owner_id, batch || (1 + position / 500),
        case when id = 8 then 'EU-' || lpad(position::text, 6, '0') end, case when added > 0 then '3706' || right(number, 7) end,
        case when is_used then first_use end, case when is_used then 1 + position % 9 else 0 end,
        case when refunded is not null then sold_at + interval '5 hours' end
    from sale left join unnest($1::text[]) with ordinality drawn (pin, nth_card) using (nth_card)
    order by nth_card
    returning id, number
), event as materialized (
    select nextval('payments_id_seq') as payment_id, ordered.*
    from (
        select card.id as card_id, kind, at, amount, tax_rate, reverses_sale, balance_change, currency, owner_id, user_id, reference
        from sale join card using (number), lateral (
            select 'sale' as kind, sold_at as at, multiply_rounded(face, rate) as amount, false as reverses_sale,
                null::numeric as balance_change, seller_id as user_id,
                case when seller_id = 5 then 'W' || sale.id || '-' || lpad(position::text, 5, '0') end as reference
            union all
            select 'top_up', sold_at + interval '40 hours', divide_rounded(10, 1 + tax_rate), false, added, 5,
                'TOPUP-' || lpad(position::text, 5, '0')
            where added > 0
            union all
            select 'refund', sold_at + interval '5 hours', -round(multiply_rounded(face, rate) * refunded, 15), true,
                -left_balance, null, null
            where refunded is not null
        ) payment
        order by at, card_id
    ) ordered
), payment as (
    insert into payments (id, paymenttype, kind, amount, currency, tax, user_id, owner_id, card, completed, date_added,
        shipped_at, description, caller_id, balance_change, reference, reverses)
    select event.payment_id, 'Card', event.kind, event.amount, event.currency, event.amount * event.tax_rate, event.card_id,
        event.owner_id, 1, 1, event.at, event.at, '', event.user_id, event.balance_change, event.reference, sale.payment_id
    from event left join event sale on event.reverses_sale and sale.card_id = event.card_id and sale.kind = 'sale'
)
insert into actions (user_id, date, action, target_type, target_id, data, data2, data3, data4)
select row.*
from (
    select coalesce(user_id, 0) as user_id, at, 'card_payment_created' as action, 'Payment' as target_type, payment_id as target_id,
        card_id::text as data, plain_text(amount) as data2, currency as data3, null as data4
    from event
    union all
    select user_id, at, 'card_sell_over_api', 'Card', card_id, '', '', null, null from event where kind = 'sale'
    union all
    -- The kiosks' program hashed its parameters in the wrong order for some days.
    select -1, now - make_interval(hours => 20 + nth * 5, mins => nth * 7 % 60), 'error', '', null, 'API : Incorrect hash',
        'http://cards.example.com/billing/api/card_from_group_sell', '192.0.2.17', 'u, id, quantity, hash'
    from clock, generate_series(1, 24) nth
) row
order by row.at, row.target_id, row.action
