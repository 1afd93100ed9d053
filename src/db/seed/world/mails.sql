-- Writes the orders of the web shop's buyers in the last two weeks, and the e-mails of the last three days: all were sent
-- but one that waits for its next attempt and one that has failed, because its address is wrong.
with sale as materialized (
    select p.*, c.cardgroup_id, nextval('ccorders_id_seq') as ccorder_id, row_number() over (order by p.id desc) as age,
        now() at time zone 'utc' as now
    from payments p join cards c on c.id = p.user_id
    where p.kind = 'sale' and p.caller_id = 5 and p.date_added > now() at time zone 'utc' - interval '14 days'
    order by p.id
), addressed as materialized (
    select sale.*, case when age = 4 then 'maria.lopez@example.con' else
        (array['anna', 'ben', 'chloe', 'david', 'elif', 'fatima', 'george', 'hana', 'ivan', 'julia', 'karim', 'lena'])[1 + id % 12]
            || '.' || (array['berg', 'costa', 'dubois', 'evans', 'fischer', 'garcia', 'haddad'])[1 + id % 7]
            || id || '@example.com' end as address
    from sale
), ccorder as (
    insert into ccorders (id, amount, currency, ordertype, email, date_added, completed)
    select ccorder_id, amount, currency, 'unspecified', address, date_added, 1 from addressed
), lineitem as (
    insert into cclineitems (cardgroup_id, quantity, ccorder_id, card_id, price)
    select cardgroup_id, 1, ccorder_id, user_id, amount from addressed
)
insert into email_outbox (owner_id, user_id, address, message_id, card_ids, balances, currency, created_at, next_attempt_at,
    attempts, sent_at, failed_at, last_error)
select owner_id, caller_id, address, 'demo-' || id || '@example.com', array[user_id], array[amount], currency, date_added,
    case when age = 2 then now + interval '50 minutes' else date_added end, case when age = 2 then 4 else 1 end,
    case when age not in (2, 4) then date_added + interval '2 seconds' end,
    case when age = 4 then date_added + interval '2 seconds' end,
    case age when 2 then 'RCPT TO: 450 4.2.1 The mailbox is busy' when 4 then 'RCPT TO: 550 5.1.2 Unknown domain' end
from addressed
where date_added > now - interval '3 days'
order by id
