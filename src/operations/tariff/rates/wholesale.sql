-- The rates of a wholesale tariff ($1): a row for each price, or one for a rate without prices. Rates that are not yet
-- in force are listed too.
with named_direction as materialized (
    -- Of several directions with one code, the lowest id counts.
    select distinct on (code) code, name, fold_case(name) collate "C" as sort_key from directions order by code, id
)
select n.name as "direction?", d.name as "destination?", d.prefix as "prefix!", n.code as "code?",
    -- The nearest double, for Money's "nice" form.
    p.rate::double precision as "rate?", p.connection_fee::double precision as "connection_fee?",
    p.increment_s as "increment_s?", p.min_time as "min_time?", p.start_time::text as "start_time?",
    p.end_time::text as "end_time?", p.daytype as "daytype?",
    to_char(r.effective_from, 'YYYY-MM-DD HH24:MI:SS') as "effective_from?"
from rates r
join destinations d on d.id = r.destination_id
left join named_direction n on n.code = d.direction_code
left join ratedetails p on p.rate_id = r.id
where r.tariff_id = $1
order by n.sort_key nulls first, d.prefix, r.effective_from nulls first, r.id,
    coalesce(p.daytype, '') collate "C", p.start_time, p.id
