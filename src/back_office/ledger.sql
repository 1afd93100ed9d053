-- Violations of the rules of the ledger, among the payments whose id is higher than $1, and among all cards.
(
    select 'the card ' || p.user_id || ' has several payments of the kinds sale and reissue' as "violation!"
    from payments p
    where p.id > $1 and p.kind in ('sale', 'reissue')
        and exists (
            select from payments other
            where other.kind in ('sale', 'reissue') and other.user_id = p.user_id and other.id <> p.id)
    limit 10
)
union all
(
    select 'the refunds of the payment ' || p.id || ' are more than its amount or tax, or have the wrong sign'
    from (select distinct reverses from payments where id > $1 and reverses is not null) reversed
        join payments p on p.id = reversed.reverses
        cross join lateral (select sum(r.amount) as amount, sum(r.tax) as tax from payments r where r.reverses = p.id) refunded
    where refunded.amount not between least(-p.amount, 0) and greatest(-p.amount, 0)
        or refunded.tax not between least(-p.tax, 0) and greatest(-p.tax, 0)
    limit 10
)
union all
(
    select 'the payment ' || r.id || ' reverses no payment, or is no refund'
    from payments r left join payments p on p.id = r.reverses
    where r.id > $1 and (r.kind = 'refund' or r.reverses is not null) and (r.kind is distinct from 'refund' or p.id is null)
    limit 10
)
union all
(
    select 'the retired card ' || coalesce(number, '') || ' (id ' || id || ') has a balance'
    from cards where retired_at is not null and coalesce(balance, 0) <> 0
    limit 10
)
