-- Added to the fixtures of the other tests: a stock, and secrets that can be distinguished from any other text.
update conflines set value = 'KEY-of-the-admin-0f84cb' where value = 'secret';
update conflines set value = 'KEY-of-the-reseller-77ab' where value = 'reskey';
-- SHA-1 of `PASSWORD-of-all-5e1d70`.
update users set password = '162437c6d382486ee5fde0813265255658b4b2bc';
insert into conflines (name, value) values ('API_Allow_payments_ower_API', '1');
insert into devices (id, name, user_id) values (1, '101', 2), (2, '102', -1), (3, '103', 11);
insert into callerids (cli, device_id) values ('555', 1), ('556', 1), ('557', 2), ('558', 3);
insert into tariffs (name, owner_id) values ('one', 0), ('a reseller''s', 3);
insert into lcrs (name) values ('one');
insert into conflines (name, value) values ('Devices_Check_Rate', '1');
insert into directions (name, code) values ('one', 'ONE');
insert into destinationgroups (name) values ('Lithuania'), ('Latvia');
insert into destinations (prefix, direction_code, name, destinationgroup_id)
select digit, 'ONE', 'prefix ' || digit, 1 + digit % 2 from generate_series(1, 9) digit;
insert into tariffs (name, purpose) values ('wholesale', 'user_wholesale');
insert into rates (tariff_id, destinationgroup_id) select 1, id from destinationgroups;
insert into aratedetails (rate_id, "from", duration, artype, round, price) select id, 1, -1, 'minute', 1, 0.5 from rates;
insert into rates (tariff_id, destination_id) select 3, id from destinations;
insert into ratedetails (rate_id, rate) select id, 0.5 from rates where tariff_id = 3;
update users set tariff_id = case when id % 2 = 0 then 1 else 3 end;
insert into acc_rights (id, name, right_type) values
    (3, 'see_financial_data', 'accountant'), (4, 'tariff_manage', 'accountant'), (5, 'callingcard_pin', 'accountant');
insert into acc_group_rights (acc_group_id, acc_right_id, value) values (1, 3, 2), (1, 4, 2), (1, 5, 2);
update users set tax_id = 3, currency_id = 4 where id = 2;
update cardgroups set pin_length = 12, price = 10, tariff_id = 1, lcr_id = 1;
update cards set pin = '9137' || lpad(id::text, 8, '0'), balance = coalesce(balance, 0);
-- `values.rs` generates these numbers and PINs.
insert into cards (cardgroup_id, number, pin, balance)
select g.id, lpad((g.id * 10000 + i)::text, g.number_length, '2'),
    '9137' || lpad((g.id * 1000 + i)::text, 8, '0'), g.price
from cardgroups g, generate_series(1, 400) i where g.id <> 11 on conflict do nothing;
-- Some of them are already sold.
update cards set sold = 1, active = 1 where id > 100 and pin similar to '91370[0-9]{4}0[0-9]{2}';
insert into payments (paymenttype, kind, user_id, card)
select 'Card', 'sale', id, 1 from cards where id > 100 and sold = 1;
insert into vouchers (id, number, currency)
select 10 + id, number, 'USD' from cards where cardgroup_id = 9 and id % 2 = 0;

-- The audit's record of all balance changes: the transaction, the amount, whether the card is new stock, and whether it
-- is new for a caller id.
create table soak_balance_changes (
    transaction bigint not null default pg_current_xact_id()::text::bigint, amount numeric, stock boolean,
    for_callerid boolean
);
create function soak_record_change() returns trigger language plpgsql as $$
begin
    insert into soak_balance_changes (amount, stock, for_callerid) values (
        coalesce(case when tg_op <> 'DELETE' then new.balance end, 0)
            - coalesce(case when tg_op <> 'INSERT' then old.balance end, 0),
        tg_op = 'INSERT' and coalesce(to_jsonb(new)->>'callerid', '') = '',
        tg_op = 'INSERT' and coalesce(to_jsonb(new)->>'callerid', '') <> '');
    return null;
end $$;
create trigger soak_card_insert after insert or delete on cards for each row execute function soak_record_change();
create trigger soak_card_update after update of balance on cards
    for each row when (old.balance is distinct from new.balance) execute function soak_record_change();
create trigger soak_user_update after update of balance on users
    for each row when (old.balance is distinct from new.balance) execute function soak_record_change();
