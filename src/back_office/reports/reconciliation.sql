-- Compares the list (`listed`) with the payments that have a reference, into `compared`. The payments of the times $1 to
-- $2 (UTC, exclusive end; null: none) must be in the list. Ignored are the payments of
-- other API users than $3 (null: of none), which may have the same references, and of other owners than $4 (null: of none).
-- "offset 0" makes the planner look up the payments of each reference; it could read all payments.
--
-- A refund can be outside of these times: the sum of all payments of a reference agrees, or the sum of those within.
-- The amounts are equal if they are after rounding to the decimals of the list, at least two: providers round. A top-up
-- by card_payment_add has its tax in the amount (tax_included); all other payments have it on top.
insert into compared
with theirs as materialized (
    select reference, currency, sum(amount) as amount, greatest(max(scale(amount)), 2) as decimals, min(line) as line
    from listed group by reference, currency
), named as materialized (
    select distinct reference from listed
), wanted as materialized (
    select reference from named
    union
    select p.reference
    from payments p
    where p.date_added >= $1::text::timestamp and p.date_added < $2::text::timestamp
        and p.reference is not null and p.kind in ('sale', 'top_up', 'refill') and ($3::integer is null or p.caller_id = $3)
        and ($4::integer is null or p.owner_id = $4)
), paid as (
    select p.reference, p.currency, p.amount, p.tax, p.tax_included, p.date_added
    from wanted w, lateral (select * from payments where reference = w.reference offset 0) p
    where p.kind in ('sale', 'top_up', 'refill', 'refund') and ($3 is null or p.caller_id = $3)
        and ($4 is null or p.owner_id = $4)
    union all
    select p.reference, r.currency, r.amount, r.tax, r.tax_included, r.date_added
    from wanted w,
        lateral (select * from payments where reference = w.reference offset 0) p,
        lateral (select * from payments where reverses = p.id offset 0) r
    where p.kind in ('sale', 'top_up', 'refill') and r.kind = 'refund' and r.reference is null
        and ($3 is null or p.caller_id = $3) and ($4 is null or p.owner_id = $4)
), ours as (
    select reference, upper(currency) as currency, sum(gross) as gross, sum(gross) filter (where is_within) as gross_within
    from paid, lateral (
        select coalesce(amount, 0) + case when tax_included then 0 else coalesce(tax, 0) end as gross,
            date_added >= $1::text::timestamp and date_added < $2::text::timestamp as is_within
    ) payment
    group by reference, upper(currency)
)
select
    case
        when ours.reference is null then 'missing_here'
        when theirs.reference is null then 'missing_in_list'
        when theirs.amount in (round(ours.gross, decimals), round(gross_within, decimals)) then 'matched'
        else 'different'
    end,
    reference, currency, theirs.amount, ours.gross, theirs.line
from theirs full join ours using (reference, currency)
-- A sale that was undone, and that the provider never charged, agrees.
where theirs.reference is not null or ours.gross <> 0
