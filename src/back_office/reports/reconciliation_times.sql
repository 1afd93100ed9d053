-- The first and the last payment that the list (`listed`) names: the times of both (UTC, exclusive end), and the same in the
-- time zone $1 for the operator. Null: the list names no payment.
-- Ignored are the payments of other API users than $2 (null: of none), and of other owners than $3 (null: of none).
select min(p.date_added)::text, (max(p.date_added) + interval '1 microsecond')::text,
    to_char(min(p.date_added) at time zone 'utc' at time zone $1, 'YYYY-MM-DD HH24:MI:SS'),
    to_char(max(p.date_added) at time zone 'utc' at time zone $1, 'YYYY-MM-DD HH24:MI:SS')
from (select distinct reference from listed) named,
    lateral (select * from payments where reference = named.reference offset 0) p
where p.kind in ('sale', 'top_up', 'refill') and ($2::integer is null or p.caller_id = $2)
    and ($3::integer is null or p.owner_id = $3)
