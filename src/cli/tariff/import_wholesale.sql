-- Writes a batch of lines into the wholesale tariff $1, and returns the outcome of each line. A line is a rate: two
-- lines of a batch never have the same prefix and start.
with line as (
    select number, prefix, rate::numeric(30, 15), connection_fee::numeric(30, 15), increment_s, min_time,
        nullif(effective_from, '')::timestamp as effective_from
    from unnest($2::bigint[], $3::text[], $4::numeric[], $5::numeric[], $6::integer[], $7::integer[], $8::text[])
        as line (number, prefix, rate, connection_fee, increment_s, min_time, effective_from)
),
matched as materialized (
    select line.*, destination.id as destination_id, existing.id as rate_id, price.id as price_id, price.count as prices,
        case
            when destination.id is null then 'unknown_prefix'
            when price.count > 1 or price.is_limited then 'several_prices'
            when existing.id is null then 'added'
            when price.is_equal then 'unchanged'
            else 'changed'
        end as outcome
    from line
    left join destinations destination on destination.prefix = line.prefix
    -- Of several rates with one start, the last one is in force.
    left join lateral (
        select id from rates
        where tariff_id = $1 and destination_id = destination.id
            and effective_from is not distinct from line.effective_from
        -- Not by the bare id: the planner could then read the primary key from its end to the last rate of the
        -- destination.
        order by id + 0 desc limit 1
    ) existing on true
    left join lateral (
        select count(*) as count, min(p.id) as id,
            bool_or(p.start_time <> '00:00:00' or p.end_time <> '23:59:59' or p.daytype <> '') as is_limited,
            bool_and((coalesce(p.rate, 0), coalesce(p.connection_fee, 0), p.increment_s, p.min_time)
                = (line.rate, line.connection_fee, line.increment_s, line.min_time)) as is_equal
        from ratedetails p where p.rate_id = existing.id
    ) price on true
),
new_rate as (
    insert into rates (tariff_id, prefix, destination_id, effective_from)
    -- MOR's column is shorter than that of destinations.
    select $1, case when length(prefix) <= 20 then prefix end, destination_id, effective_from
    from matched where outcome = 'added' order by number
    returning id, destination_id, effective_from
),
new_price as (
    insert into ratedetails (rate_id, rate, connection_fee, increment_s, min_time)
    select coalesce(matched.rate_id, new_rate.id), rate, connection_fee, increment_s, min_time
    from matched left join new_rate on new_rate.destination_id = matched.destination_id
        and new_rate.effective_from is not distinct from matched.effective_from
    where outcome in ('added', 'changed') and prices = 0
),
changed_price as (
    update ratedetails p
    set rate = matched.rate, connection_fee = matched.connection_fee, increment_s = matched.increment_s,
        min_time = matched.min_time
    from matched where p.id = matched.price_id and matched.outcome = 'changed'
)
select number as "number!", outcome as "outcome!" from matched order by number
