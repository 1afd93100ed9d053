-- Adds the amount $2 to the balance of the user $1, and writes the payment.
--
-- $3 whether the amount is paid, taxes included (else it is the balance of a card), $4 the caller's currency rate
-- $5 whether the payment has the user's name, $6 the caller, $7 the client's reference
with refill as materialized (
    select id, effective_tax_rate(tax_id, owner_id) as tax_rate,
        case when $3 then divide_rounded($2, (1 + effective_tax_rate(tax_id, owner_id)) * $4::numeric) else $2 end as added
    from users where id = $1
), refilled as (
    update users set balance = coalesce(balance, 0) + refill.added from refill where users.id = refill.id
    returning users.id, owner_id, first_name, last_name, currency_id, tax_rate, added
)
insert into payments (paymenttype, kind, amount, currency, user_id, owner_id, card, completed, date_added, shipped_at, description,
    first_name, last_name, caller_id, balance_change, transferred, reference)
select 'card_refill', case when $3 then 'refill' else 'transfer' end,
    case when $3 then divide_rounded($2, 1 + tax_rate) else $2 * $4::numeric end * case when c.id is null then 1 else exchange_rate_to(c.name) end,
    coalesce(c.name, (select name from currencies where id = 1), ''), r.id, r.owner_id, 0, 1,
    now() at time zone 'utc', now() at time zone 'utc', '',
    case when $5 then first_name end, case when $5 then last_name end, $6::integer, case when $3 then added end, case when not $3 then added end, $7
from refilled r left join currencies c on c.id = r.currency_id
