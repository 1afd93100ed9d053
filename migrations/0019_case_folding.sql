-- Names are compared without regard to letter case, by the same rules in every database. lower() alone follows the collation of the
-- database: with a Turkish one, lower('ADMIN') is not 'admin', and the user is not found.
do $$
begin
    execute format('create collation case_folding from pg_catalog.%I', coalesce((
        select collname from pg_collation
        where collnamespace = 'pg_catalog'::regnamespace and collencoding in (-1, pg_char_to_encoding('UTF8'))
            and collname in ('und-x-icu', 'C.UTF-8', 'C.utf8')
        -- PostgreSQL without ICU has the last ones at most. C folds A to Z only.
        order by collname <> 'und-x-icu', collname limit 1), 'C'));
end $$;
create function fold_case(value text) returns text language sql immutable parallel safe
    return lower(value collate case_folding);
comment on function fold_case(text) is 'The text in lower case, independent of the collation of the database. To compare names.';

drop index users_username;
create index users_username on users (fold_case(rtrim(username)), id);
drop index acc_rights_name;
create unique index acc_rights_name on acc_rights (fold_case(name));

create or replace function exchange_rate_to(currency_name text) returns numeric
    language plpgsql stable parallel safe as $$
begin
    return coalesce((
        select case
            when fold_case(rtrim(own.name)) = fold_case(rtrim(currency_name)) then 1
            when other.id is null or coalesce(own.exchange_rate, 1) = 0 then 0
            when coalesce(own.exchange_rate, 1) = 1 then coalesce(other.exchange_rate, 1)
            else round(coalesce(other.exchange_rate, 1)::numeric(60, 30) / own.exchange_rate, 30)
        end
        from currencies own
        left join currencies other on fold_case(rtrim(other.name)) = fold_case(rtrim(currency_name))
        where own.id = 1 order by other.id limit 1
    ), 0);
end $$;
