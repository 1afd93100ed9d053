-- Looks up what a request that creates or changes a card group names ($1, `Requested`).
--
-- $2 whether the caller is a reseller, $3 the caller, $4 whether the default tariff and LCR have the id 1 (if there is no such row, a
-- reseller's own: the database of an import may have none)
-- $5 the group to change (null: a new group)
select
    floor(extract(epoch from now()))::bigint as "now!",
    extract(epoch from date_trunc('day', now()) - date_trunc('year', now()))::bigint as "year_to_date_s!",
    (
        select id::integer from tariffs
        where case
            when requested.tariff is not null then id = requested.tariff and not ($2 and owner_id = 0)
            when $4 then id = 1 or $2 and owner_id = $3
            else not $2 or owner_id = $3
        end
        order by id limit 1
    ) as tariff,
    (
        select id::integer from lcrs
        where case
            when requested.lcr is not null then id = requested.lcr and not ($2 and user_id = 0)
            when $4 then id = 1 or $2 and user_id = $3
            else not $2 or user_id = $3
        end
        order by id limit 1
    ) as lcr,
    case
        when requested.location is null then 1
        else (select id from locations where id = requested.location and not ($2 and user_id = 0))
    end as location,
    (select id from taxes where id = requested.tax) as tax,
    exists (select from cardgroups where name = requested.name and id is distinct from $5) as "name_taken!"
from jsonb_to_record($1) as requested (tariff bigint, lcr bigint, location bigint, tax bigint, name text)
