-- Writes the order rows of the sold cards $1, in this order, and queues the e-mail to the buyer.
--
-- $2 caller, $3 rate of the balances in the e-mail, $4 their currency
-- $5 the buyer's address, rate and currency of the amounts in the order rows, and the e-mail (`OrderRows`)
with sale as materialized (
    select c.id, c.cardgroup_id, g.owner_id, coalesce(c.balance, 0) as balance, position,
        nextval('ccorders_id_seq') as ccorder_id, now() at time zone 'utc' as now
    from unnest($1::bigint[]) with ordinality sold (id, position)
        join cards c on c.id = sold.id
        join cardgroups g on g.id = c.cardgroup_id
    order by position
), order_rows as materialized (
    select address, rate, currency, outbox_entry ->> 'message_id_domain' as message_id_domain,
        outbox_entry ->> 'initial_error' as initial_error
    from jsonb_to_record($5) as (address text, rate numeric, currency text, outbox_entry jsonb)
), ccorder as (
    insert into ccorders (id, amount, currency, ordertype, email, date_added, completed)
    select ccorder_id, multiply_rounded(balance, rate), currency, 'unspecified', address, now, 1 from sale, order_rows
), lineitem as (
    insert into cclineitems (cardgroup_id, quantity, ccorder_id, card_id, price)
    select cardgroup_id, 1, ccorder_id, id, multiply_rounded(balance, rate) from sale, order_rows
)
insert into email_outbox (owner_id, user_id, address, message_id, card_ids, balances, currency, failed_at, last_error)
select min(owner_id), $2, address, gen_random_uuid() || '@' || message_id_domain, array_agg(id order by position),
    array_agg(multiply_rounded(balance, $3::numeric) order by position), $4,
    case when initial_error is not null then min(now) end, initial_error
from sale, order_rows
where message_id_domain is not null
group by address, message_id_domain, initial_error
