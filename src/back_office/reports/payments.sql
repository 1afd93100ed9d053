-- Lists payments of a period, the newest first, among those that are read.
--
-- $1 start, $2 end (exclusive) in UTC; $3, $4 only those before the payment of this time with this id (null: all)
-- $5 number of payments that are read, $6 number of rows, $7 which payments, as the struct PaymentFilter
select p.id as "id!", to_char(p.date_added, 'YYYY-MM-DD HH24:MI:SS') as "date!",
    to_char(p.date_added, 'YYYY-MM-DD HH24:MI:SS.US') as "exact_date!", p.kind as "kind!",
    case when p.card = 1 then p.user_id end as card_id, c.number as "number?",
    case when p.card = 0 then coalesce(refilled.username, p.user_id::text) end as refilled_user,
    c.cardgroup_id as "group_id?", g.name as "group?", coalesce(u.username, seller::text) as "user?",
    p.currency as "currency!", coalesce(p.amount, 0) as "amount!: Money", coalesce(p.tax, 0) as "tax!: Money",
    coalesce(p.tax_included, false) as "tax_included!", p.reference, nullif(p.description, '') as description
from (
    select id, date_added, kind, card, user_id, owner_id, caller_id, reverses, currency, amount, tax, tax_included, reference,
        description
    from payments
    where date_added >= $1::text::timestamp and date_added < $2::text::timestamp
        and ($3::text is null or date_added <= $3::text::timestamp and (date_added < $3::text::timestamp or id < $4::bigint))
    order by date_added desc, id desc limit $5
) p
    left join payments original on p.kind = 'refund' and original.id = p.reverses
    cross join lateral (select case when p.kind = 'refund' then original.caller_id else p.caller_id end as seller) by_user
    left join cards c on p.card = 1 and c.id = p.user_id
    left join cardgroups g on g.id = c.cardgroup_id
    left join users u on u.id = seller
    left join users refilled on p.card = 0 and refilled.id = p.user_id
where p.kind in ('sale', 'top_up', 'refill', 'refund')
    and ($7::jsonb ->> 'owner' is null or p.owner_id = ($7 ->> 'owner')::integer)
    and ($7 ->> 'group' is null or c.cardgroup_id = ($7 ->> 'group')::integer)
    and ($7 ->> 'user' is null or seller = ($7 ->> 'user')::integer)
    and ($7 ->> 'currency' is null or p.currency = $7 ->> 'currency')
    and ($7 ->> 'kind' is null or p.kind = $7 ->> 'kind')
order by p.date_added desc, p.id desc limit $6
