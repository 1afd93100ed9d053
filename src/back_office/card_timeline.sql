-- Reads what has happened to a card, the latest first, before a position in the list: its payments, its actions and those of its
-- payments and vouchers, its changes, its e-mails. The action of each payment is left out: the payment says the same.
-- "offset 0" makes the planner look up the rows of each payment, voucher or order; it could read those of all.
--
-- $1 the card's id, $2 its group, $3 its number, $4 number of rows, $5 $6 $7 the position: microseconds since 1970, part and id
-- $8 for a reseller: without vouchers, which can belong to other cards of the number
select to_char(at, 'YYYY-MM-DD HH24:MI:SS') as "at!", (extract(epoch from at) * 1000000)::bigint as "microseconds!",
    part as "part!", id as "id!", author, event as "event!: Json<Event>"
from (
    (
        select coalesce(p.date_added, '1970-01-01') as at, 1 as part, p.id, u.username as author,
            jsonb_build_object('payment', jsonb_build_object(
                'id', p.id, 'kind', p.kind, 'amount', plain_text(coalesce(p.amount, 0)), 'tax', plain_text(coalesce(p.tax, 0)),
                'currency', p.currency, 'tax_included', coalesce(p.tax_included, false), 'reverses', p.reverses,
                'replaced', coalesce(old.number, old.id::text), 'reference', p.reference, 'description', nullif(p.description, ''),
                'balance_change', plain_text(nullif(p.balance_change, 0))
            )) as event
        from payments p left join users u on u.id = p.caller_id left join cards old on old.id = p.replaces_card
        where p.user_id = $1 and p.card = 1
    )
    union all
    (
        select a.date, 2, a.id, u.username, jsonb_build_object('action', jsonb_build_object(
            'action', a.action, 'details', array_to_string(array_remove(array[a.data, a.data2, a.data3, a.data4], ''), ', ')))
        from (
            select * from actions where target_type in ('Card', 'card') and target_id = $1
            union all
            select of_payment.*
            from payments p, lateral (
                select * from actions where target_type = 'Payment' and target_id = p.id offset 0
            ) of_payment
            where p.user_id = $1 and p.card = 1 and of_payment.action <> 'card_payment_created'
            union all
            select of_voucher.*
            from vouchers v, lateral (
                select * from actions where target_type = 'Voucher' and target_id = v.id offset 0
            ) of_voucher
            where v.number = $3::text and not $8::boolean
        ) a left join users u on u.id = a.user_id
    )
    union all
    (
        select c.at, 3, c.id, c.who, jsonb_build_object('change', jsonb_build_object(
            'before', c.before, 'after', c.after, 'user_id', c.user_id, 'operator', c.operator))
        from (
            select * from change_log where what = 'card' and target_id = $1
            union all
            -- A range of cards.
            select * from change_log
            where cardgroup_id = $2 and number_till >= $3 and number_from <= $3 and length(number_till) = length($3)
        ) c
    )
    union all
    (
        select coalesce(m.sent_at, m.failed_at, o.date_added, '1970-01-01'), 4, l.id, null,
            jsonb_build_object('mail', jsonb_build_object(
                'id', m.id, 'address', coalesce(m.address, o.email, ''), 'error', m.last_error,
                'state', case when m.sent_at is not null then 'sent' when m.failed_at is not null then 'failed'
                    when m.id is not null then 'waiting' end
            ))
        from (select * from cclineitems where card_id = $1 offset 0) l, lateral (
            select * from ccorders where id = l.ccorder_id and coalesce(email, '') <> '' offset 0
        ) o left join lateral (
            select * from email_outbox where created_at = o.date_added and card_ids @> array[$1::bigint] limit 1
        ) m on true
    )
) rows
where $5::bigint is null
    or (at, part, id) < (timestamp '1970-01-01' + $5::bigint * interval '1 microsecond', $6::integer, $7::bigint)
order by at desc, part desc, id desc
limit $4
