-- Every server keeps users, rights, settings and currencies in memory. The database tells all of them when one of those
-- changes, on the channel mortise_changes with the table's name, when the change commits. Only the columns that are
-- kept count: a user's balance moves all day.

create function tell_servers() returns trigger language plpgsql as $$
begin
    perform pg_notify('mortise_changes', tg_table_name);
    return null;
end $$;

create trigger tell_servers after insert or delete or truncate or update of
        id, username, password, password_argon2, usertype, blocked, owner_id, hidden, acc_group_id, currency_id
    on users for each statement execute function tell_servers();
create trigger tell_servers after insert or update or delete or truncate on conflines
    for each statement execute function tell_servers();
create trigger tell_servers after insert or update or delete or truncate on currencies
    for each statement execute function tell_servers();
create trigger tell_servers after insert or update or delete or truncate on acc_rights
    for each statement execute function tell_servers();
create trigger tell_servers after insert or update or delete or truncate on acc_group_rights
    for each statement execute function tell_servers();
alter table users enable always trigger tell_servers;
alter table conflines enable always trigger tell_servers;
alter table currencies enable always trigger tell_servers;
alter table acc_rights enable always trigger tell_servers;
alter table acc_group_rights enable always trigger tell_servers;

-- The argon2 hash speaks for the SHA-1 one that it was made from: a new password in MOR's column unseats it. (Emptying
-- MOR's column doesn't: that is how an operator gets rid of the SHA-1 hash.)
create function forget_old_password() returns trigger language plpgsql as $$
begin
    new.password_argon2 := null;
    return new;
end $$;
create trigger forget_old_password before update of password on users
    for each row
    when (new.password <> '' and new.password is distinct from old.password
        and new.password_argon2 is not distinct from old.password_argon2)
    execute function forget_old_password();
