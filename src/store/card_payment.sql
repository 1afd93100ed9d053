-- Adds the payment $1 (`CardPayment`), without the taxes of the card group $3, to the balance of the card $2, and writes
-- the payment and its audit row. $4: the taxes may be -100 % or less.
--
-- Returns no row if the taxes are not allowed: they would change the sign of the amount. The caller rolls back then.
with input as materialized (
    select *
    from jsonb_to_record($1) as input (
        caller_id integer, amount numeric, currency text, rate numeric, description text, display_rate numeric, reference text
    )
), cardgroup as materialized (
    select owner_id, effective_tax_rate(tax_id, owner_id) as tax_rate from cardgroups where id = $3
), added as materialized (
    select with_tax, without_tax, divide_rounded(without_tax, display_rate) as credited
    from input, cardgroup, lateral (
        select divide_rounded(amount, rate) as with_tax, divide_rounded(amount, rate * (1 + tax_rate)) as without_tax
    ) converted
), card as (
    update cards set balance = coalesce(balance, 0) + credited from added where id = $2
    returning balance - credited as balance
), payment as (
    insert into payments (
        paymenttype, kind, amount, currency, tax, user_id, owner_id, card, completed, date_added, shipped_at, description,
        caller_id, balance_change, reference, tax_included
    )
    select
        'Card', 'top_up', amount, currency, amount * tax_rate, $2, owner_id, 1, 1, now() at time zone 'utc',
        now() at time zone 'utc', description, caller_id, credited, reference, true
    from input, cardgroup, added
    where $4 or tax_rate > -1
    returning id, amount
), action as (
    insert into actions (user_id, action, target_type, target_id, data, data2, data3)
    -- The user of an audit row of the console: the admin, as in MOR.
    select coalesce(caller_id, 0), 'card_payment_created', 'Payment', id, $2::bigint::text, plain_text(payment.amount), currency
    from input, payment
)
select
    payment.id as "payment_id!",
    multiply_rounded(balance, display_rate) as "current_balance!: Money",
    with_tax as "with_tax!: Money",
    without_tax as "without_tax!: Money",
    multiply_rounded(balance, display_rate) + without_tax as "new_balance!: Money"
from input, card, added, payment
