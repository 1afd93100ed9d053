-- Each visible card group with its free cards, the cards that left the stock in the last $1 days, and its validity.
-- Only groups that are sold out or expire within $2 days (null: all).
with free as materialized (
    select cardgroup_id, count(*) as count from card_stock group by cardgroup_id
), gone as materialized (
    select c.cardgroup_id, count(*) as count
    -- "offset 0" makes the planner find the payments by their date, and look up each card. It could read all of both.
    from (
            select user_id, kind from payments
            where date_added >= now() at time zone 'utc' - make_interval(days => $1) offset 0
        ) p,
        lateral (select cardgroup_id from cards where id = p.user_id offset 0) c
    where p.kind in ('sale', 'reissue')
    group by c.cardgroup_id
), stock as (
    select g.id, g.name, coalesce(g.owner_id, 0) as owner_id, u.username as owner, coalesce(free.count, 0) as free, coalesce(gone.count, 0) as sold,
        floor(coalesce(free.count, 0) * $1 / nullif(gone.count, 0)::numeric)::bigint as days_left, g.valid_till,
        g.valid_till < now() at time zone 'utc' as has_expired,
        floor(extract(epoch from g.valid_till - now() at time zone 'utc') / 86400)::bigint as days_valid
    from cardgroups g
        left join users u on u.id = g.owner_id
        left join free on free.cardgroup_id = g.id
        left join gone on gone.cardgroup_id = g.id
    where g.hidden = 0
)
select id as "id!", name as "name!", owner_id as "owner_id!", owner as "owner?", free as "free!", sold as "sold!", days_left,
    to_char(valid_till, 'YYYY-MM-DD') as valid_till,
    case
        when free > 0 and has_expired then 'expired'
        when free > 0 and days_valid <= $1 then 'expires'
        when free > 0 and days_valid < days_left then 'expires_before_sold_out'
        else 'ok'
    end as "validity!"
from stock
where $2::integer is null or days_left <= $2 or free > 0 and days_valid <= $2
order by days_left nulls last, id
