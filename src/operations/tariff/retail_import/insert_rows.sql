-- Writes prices of retail rates, in the order of the arrays. A range of times is a text such as 00:00:00-23:59:59. The
-- conversion to numeric(30, 15) rounds half away from zero.
insert into aratedetails (rate_id, "from", duration, artype, round, price, start_time, end_time, daytype)
select rate_id, from_s, duration, case when is_minute then 'minute' else 'event' end, round, price::numeric(30, 15),
    split_part(times, '-', 1)::time, split_part(times, '-', 2)::time, daytype
from unnest(
    $1::bigint[], $2::integer[], $3::integer[], $4::boolean[], $5::integer[], $6::text[], $7::text[], $8::text[]
)
    with ordinality as new (rate_id, from_s, duration, is_minute, round, price, times, daytype, position)
order by position
