-- Card groups of the admin and of a reseller, and users with and without the permission to sell from them.
insert into currencies (id, name, exchange_rate, active) values
    (1, 'USD', 1, 1), (2, 'EUR', 0.7441, 1), (3, 'JPY', 101.333333333333333, 0), (4, 'LTL', 2.5693, 1);
insert into taxes (id, tax1_enabled, tax2_enabled, tax1_value, tax2_value, compound_tax) values
    (1, 1, 0, 0, 0, 1), (2, 1, 0, 19, 0, 1), (3, 1, 1, 10, 5, 1), (4, 1, 1, 21, 5, 0);
insert into conflines (name, value, owner_id) values
    ('Allow_API', '1', 0), ('Allow_GET_API', '1', 0), ('API_Secret_Key', 'secret', 0), ('CC_Active', '1', 0),
    ('Tax_1', 'Tax', 0), ('Tax_1_Value', '7.5', 0), ('Total_tax_name', 'Tax', 0), ('Tax_compound', '1', 0),
    ('Allow_API', '1', 3), ('API_Secret_Key', 'reskey', 3);
insert into acc_rights (id, name, right_type) values
    (1, 'Callingcard_manage', 'accountant'), (2, 'calling_cards', 'reseller');
insert into acc_group_rights (acc_group_id, acc_right_id, value) values
    (1, 1, 2), (2, 1, 1), (3, 1, 0), (4, 2, 2), (5, 2, 1), (5, 1, 2);
-- The password of all users is `secret password`.
insert into users (id, username, password, usertype, owner_id, acc_group_id, tax_id, currency_id)
select id, username, 'd20a09545c7aff14a4f596ddba19296d58f6c101', usertype, owner_id, acc_group_id, tax_id, currency_id
from (values
    (0, 'admin', 'admin', 0, 0, 1, 1),
    (2, 'user', 'user', 0, 0, 1, 1),
    (3, 'reseller', 'reseller', 0, 4, 4, 2),
    (4, 'reseller_read', 'reseller', 0, 5, 1, 1),
    (5, 'reseller_none', 'reseller', 0, 0, 1, 1),
    (6, 'accountant', 'accountant', 0, 1, 1, 1),
    (7, 'accountant_read', 'accountant', 0, 2, 1, 1),
    (8, 'accountant_zero', 'accountant', 0, 3, 1, 1),
    (9, 'accountant_none', 'accountant', 0, 0, 1, 1),
    (10, 'partner', 'partner', 0, 4, 1, 1),
    (11, 'customer', 'user', 3, 0, 1, 1)
) user_rows (id, username, usertype, owner_id, acc_group_id, tax_id, currency_id);
insert into cardgroups
    (id, name, owner_id, tax_id, tell_balance_in_currency, number_length, pin_length, disable_voucher, hidden) values
    (6, 'ten dollars', 0, 2, 'USD', 10, 4, 0, 0),
    (7, 'euro group', 0, 3, 'EUR', 6, 4, 0, 0),
    (8, 'hidden', 0, 1, 'USD', 6, 4, 0, 1),
    (9, 'vouchers', 0, 4, 'USD', 6, 4, 1, 0),
    (10, 'no taxes', 0, 999, 'USD', 6, 4, 0, 0),
    (11, 'empty', 0, 1, 'USD', 6, 4, 0, 0),
    (12, 'the reseller''s', 3, 4, 'EUR', 6, 4, 0, 0);
insert into cards (id, cardgroup_id, number, pin, balance, sold, active, hidden, callerid) values
    (1, 6, '1111111003', '1003', 10.0840336134454, 0, 0, 0, null),
    (2, 6, '1111111001', '1001', 10.0840336134454, 0, 0, 0, null),
    (3, 6, '1111111002', '1002', 10.0840336134454, 0, 0, 0, null),
    (4, 6, '1111111000', '1000', 10.0840336134454, 1, 1, 0, '3701111'),
    (5, 6, '1111110999', '0999', 10.0840336134454, 0, 0, 1, null),
    (6, 6, '0000000042', '0042', 10.0840336134454, 0, 0, 0, null),
    (7, 7, '700001', '7001', 1.366026910730141, 0, 0, 0, null),
    (8, 8, '800001', '8001', 3, 0, 0, 0, null),
    (9, 9, '900001', '9001', 3, 0, 0, 0, null),
    (10, 9, '900002', '9002', 3, 0, 0, 0, null),
    (11, 10, '100001', '1101', 7, 0, 0, 0, null),
    (12, 12, '120001', '1201', 5, 0, 0, 0, null),
    (13, 12, '120002', '1202', null, 0, 0, 0, null);
insert into vouchers (id, number, currency, use_date) values
    (1, '900001', 'USD', null), (2, '900002', 'USD', '2020-01-01'), (3, '1111111001', 'USD', null);
select setval('cards_id_seq', 100), setval('users_id_seq', 100), setval('taxes_id_seq', 100),
    setval('cardgroups_id_seq', 100);
