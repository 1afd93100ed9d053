-- The totals of sales, top-ups and refunds of a period, by currency and by what $4 names, and the totals of each
-- currency. A refund belongs to the API user of the payment that it undoes.
--
-- $1 start, $2 end (exclusive) in UTC, $3 time zone of the days, $4 any of day, group, user
-- $5 which payments, as the struct PaymentFilter
with paid as (
    select
        case when 'day' = any ($4) then to_char(p.date_added at time zone 'utc' at time zone $3, 'YYYY-MM-DD') end as day,
        case when 'group' = any ($4) then c.cardgroup_id end as group_id,
        case when 'user' = any ($4) then
            case when p.kind = 'refund' then original.caller_id else p.caller_id end
        end as user_id,
        p.currency, p.kind = 'refund' as is_refund, coalesce(p.amount, 0) as amount, coalesce(p.tax, 0) as tax
    from payments p
        left join payments original
            on ('user' = any ($4) or $5::jsonb ->> 'user' is not null) and original.id = p.reverses
        left join cards c
            on ('group' = any ($4) or $5 ->> 'group' is not null) and p.card = 1 and c.id = p.user_id
    where p.date_added >= $1::text::timestamp and p.date_added < $2::text::timestamp
        and p.kind in ('sale', 'top_up', 'refill', 'refund')
        and ($5 ->> 'owner' is null or p.owner_id = ($5 ->> 'owner')::integer)
        and ($5 ->> 'group' is null or c.cardgroup_id = ($5 ->> 'group')::integer)
        and ($5 ->> 'user' is null or case when p.kind = 'refund' then original.caller_id else p.caller_id end = ($5 ->> 'user')::integer)
        and ($5 ->> 'currency' is null or p.currency = $5 ->> 'currency')
        and ($5 ->> 'kind' is null or p.kind = $5 ->> 'kind')
), totals as (
    select grouping(day, group_id, user_id) <> 0 as is_total, day, group_id, user_id, currency,
        count(*) filter (where not is_refund) as count,
        coalesce(sum(amount) filter (where not is_refund), 0) as amount,
        coalesce(sum(tax) filter (where not is_refund), 0) as tax,
        count(*) filter (where is_refund) as refunds,
        coalesce(sum(amount) filter (where is_refund), 0) as refunded,
        coalesce(sum(tax) filter (where is_refund), 0) as refunded_tax,
        sum(amount) as net, sum(tax) as net_tax
    from paid
    group by grouping sets ((day, group_id, user_id, currency), (currency))
)
select
    is_total as "is_total!", day as "day?", group_id as "group_id?", g.name as "group?", user_id as "user_id?", u.username as "user?", currency as "currency!",
    count as "count!", amount as "amount!: Money", tax as "tax!: Money", refunds as "refunds!",
    refunded as "refunded!: Money", refunded_tax as "refunded_tax!: Money", net as "net!: Money",
    net_tax as "net_tax!: Money"
from totals left join cardgroups g on g.id = group_id left join users u on u.id = user_id
order by is_total, day, group_id, user_id, currency
