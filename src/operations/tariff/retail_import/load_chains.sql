-- The chains of rates: for the rows of one day type and one time range, the second of a call after those of all rows,
-- and whether a row lasts to the end of the call. An event takes no time of the call.
select rate_id as "rate_id!", coalesce(daytype, '') as "day_type!",
    extract(epoch from start_time)::integer as start_s, extract(epoch from end_time)::integer as end_s,
    max(greatest(coalesce("from", 0)::bigint + coalesce(nullif(duration, -1), 0), 1)) as "next_from!",
    bool_or(coalesce(artype = 'minute' and duration = -1, false)) as "is_endless!"
from aratedetails where rate_id = any ($1)
group by rate_id, coalesce(daytype, ''), start_time, end_time
