-- Writes the order rows of the sold cards $1, in this order, and queues the e-mail to the buyer.
--
-- $2 caller, $3 the buyer's address as it was sent, $4 rate of the amounts in the order rows, $5 their currency
-- $6 rate of the balances in the e-mail, $7 their currency
-- $8 domain of the e-mail's id (null: no e-mail is sent), $9 why it cannot be sent (null: it is sent)
with sale as materialized (
    select c.id, c.cardgroup_id, g.owner_id, coalesce(c.balance, 0) as balance, position,
        nextval('ccorders_id_seq') as ccorder_id, now() at time zone 'utc' as now
    from unnest($1::bigint[]) with ordinality sold (id, position)
        join cards c on c.id = sold.id
        join cardgroups g on g.id = c.cardgroup_id
    order by position
), ccorder as (
    insert into ccorders (id, amount, currency, ordertype, email, date_added, completed)
    select ccorder_id, multiply_rounded(balance, $4::numeric), $5, 'unspecified', $3, now, 1 from sale
), lineitem as (
    insert into cclineitems (cardgroup_id, quantity, ccorder_id, card_id, price)
    select cardgroup_id, 1, ccorder_id, id, multiply_rounded(balance, $4) from sale
)
insert into email_outbox (owner_id, user_id, address, message_id, card_ids, balances, currency, failed_at, last_error)
select min(owner_id), $2, $3, gen_random_uuid() || '@' || $8, array_agg(id order by position),
    array_agg(multiply_rounded(balance, $6::numeric) order by position), $7, case when $9::text is not null then min(now) end, $9
from sale
where $8::text is not null
having count(*) > 0
