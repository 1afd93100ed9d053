-- What 0021 added costs each sale something. PostgreSQL parses the expression of each check constraint for each statement that writes to
-- the table, and a list of texts takes several times as long as the call of a function. A PL/pgSQL function is not inlined.
create function is_withheld_reason(reason text) returns boolean language plpgsql immutable strict parallel safe as $$
begin
    return reason in ('blocked', 'assigned', 'reserved');
end $$;
create function is_payment_kind(kind text) returns boolean language plpgsql immutable strict parallel safe as $$
begin
    return kind in ('sale', 'top_up', 'refill', 'transfer', 'refund', 'reissue', 'write_off');
end $$;
comment on function is_withheld_reason(text) is 'Whether cards.withheld may have this value.';
comment on function is_payment_kind(text) is 'Whether payments.kind may have this value.';

-- In the order in which requests lock them.
lock table cards, payments in access exclusive mode;
alter table cards drop constraint cards_withheld, add constraint cards_withheld check (is_withheld_reason(withheld));
alter table payments drop constraint payments_kind_check, add constraint payments_kind_check check (is_payment_kind(kind)) not valid;
-- As in 0017: a row that violates a check does not stop the upgrade.
do $$
begin
    alter table payments validate constraint payments_kind_check;
exception when check_violation then
    raise warning 'table payments has rows that violate the check payments_kind_check: run mortise doctor';
end $$;

-- A sale inserts two rows into actions. Ids are compared faster than texts.
drop index if exists actions_target;
create index actions_target on actions (target_id, target_type) where target_id is not null;
