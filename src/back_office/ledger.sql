-- Violations of the rules of the ledger, among the payments whose id is higher than $1.
-- "offset 0" makes the planner find these payments by their id, and not read a partial index as a whole.
(
    select 'the card ' || p.user_id || ' has several payments of the kinds sale and reissue' as "violation!"
    from (select id, user_id, kind from payments where id > $1 offset 0) p
    where p.kind in ('sale', 'reissue')
        and exists (
            select from payments other
            where other.kind in ('sale', 'reissue') and other.user_id = p.user_id and other.id <> p.id)
    limit 10
)
union all
(
    select 'the refunds of the payment ' || p.id || ' are more than its amount or tax, or have the wrong sign'
    from (
        select distinct reverses from (select reverses from payments where id > $1 offset 0) latest where reverses is not null
    ) reversed
        join payments p on p.id = reversed.reverses
        cross join lateral (select sum(r.amount) as amount, sum(r.tax) as tax from payments r where r.reverses = p.id) refunded
    where refunded.amount not between least(-p.amount, 0) and greatest(-p.amount, 0)
        or refunded.tax not between least(-p.tax, 0) and greatest(-p.tax, 0)
    limit 10
)
union all
(
    select 'the payment ' || r.id || ' reverses no payment, or is no refund'
    from (select id, kind, reverses from payments where id > $1 offset 0) r left join payments p on p.id = r.reverses
    where (r.kind = 'refund' or r.reverses is not null) and (r.kind is distinct from 'refund' or p.id is null)
    limit 10
)
