-- Validates the checks of 0016, and cards_hidden of 0011, while other programs may read and write. A row that violates one does not stop
-- the upgrade: that check stays "not valid", new rows must satisfy it all the same, and doctor names the row.
do $$
declare
    unvalidated record;
begin
    for unvalidated in
        select conrelid::regclass as table_name, conname
        from pg_constraint
        where connamespace = quote_ident(current_schema())::regnamespace and contype = 'c' and not convalidated
        order by conrelid::regclass::text, conname
    loop
        begin
            execute format('alter table %s validate constraint %I', unvalidated.table_name, unvalidated.conname);
        exception when check_violation then
            raise warning 'table % has rows that violate the check %: run mortise doctor',
                unvalidated.table_name, unvalidated.conname;
        end;
    end loop;
end $$;
