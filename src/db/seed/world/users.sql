-- Creates the users of the demo's world: the shops `webshop` (5) and `kiosks` (6), the reseller Nordic Cards (7) with its
-- tariff, LCR, taxes, settings and rights, and the distributor `corner-shop` (8). The tariff has the id 2: the next one
-- that a client creates gets the id 9, as in a published example.
--
-- $1 SHA-1 of a password that is stored nowhere, $2 secret key of the reseller
with rights as (
    insert into acc_groups (id, name, group_type) values (2, 'Resellers', 'reseller') returning id
), right_value as (
    insert into acc_group_rights (acc_group_id, acc_right_id, value)
    select rights.id, r.id, 2 from rights, acc_rights r where r.name = 'calling_cards'
), tax as (
    insert into taxes (id, tax1_enabled, tax1_name, total_tax_name, tax1_value)
    values (3, 1, 'VAT', 'VAT', 19), (4, 1, 'VAT', 'VAT', 20), (5, 1, 'VAT', 'VAT', 20)
), tariff as (
    insert into tariffs (id, name, purpose, owner_id, currency) values (2, 'Nordic Cards', 'user', 7, 'USD')
), lcr as (
    insert into lcrs (id, name, user_id) values (2, 'Nordic Cards', 7)
), setting as (
    insert into conflines (name, value, owner_id) values ('Allow_API', '1', 7), ('API_Secret_Key', $2, 7)
)
insert into users (id, username, first_name, password, usertype, tax_id, tariff_id, lcr_id, acc_group_id, balance)
values
    (5, 'webshop', 'Web shop', $1, 'accountant', 1, 1, 1, 1, 0),
    (6, 'kiosks', 'Kiosks at the stations', $1, 'accountant', 1, 1, 1, 1, 0),
    (7, 'Nordic Cards', 'Nordic Cards', $1, 'reseller', 5, 2, 2, 2, 250),
    (8, 'corner-shop', 'Corner shop', $1, 'user', 1, 1, 1, 0, 0)
