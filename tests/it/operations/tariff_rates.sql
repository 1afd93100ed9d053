-- Tariffs with rates, added to fixtures.sql: wholesale 20, retail 21, the reseller's retail 22, a provider's 23, an empty one 24.
insert into tariffs (id, name, purpose, owner_id, currency) values
    (20, 'Wholesale', 'user_wholesale', 0, 'EUR'), (21, 'Retail', 'user', 0, 'USD'),
    (22, 'Reseller''s retail', 'user', 3, 'EUR'), (23, 'Provider', 'provider', 0, 'USD'),
    (24, 'T & <x> ''é'' "q" 漢', 'user', 0, 'USD');
insert into conflines (name, value) values ('Devices_Check_Rate', '1'), ('Nice_Number_Digits', '4');
insert into acc_rights (id, name, right_type) values (3, 'See_Financial_Data', 'accountant'), (4, 'Tariff_Manage', 'accountant');
insert into acc_group_rights (acc_group_id, acc_right_id, value) values (1, 3, 1), (1, 4, 1), (2, 3, 1), (3, 4, 1);
update users set tariff_id = case id
    when 0 then 20 when 2 then 20 when 3 then 21 when 6 then 20 when 10 then 21 when 11 then 22 else 0 end;
insert into directions (id, name, code) values
    (1, 'Albania', 'ALB'), (2, 'lithuania', 'LTU'), (3, 'A second Lithuania', 'LTU');
insert into destinationgroups (id, name) values (1, 'Albania - Fixed'), (2, 'lithuania - Fixed'), (3, 'Lithuania - Mobile');
insert into destinations (id, prefix, direction_code, name, destinationgroup_id) values
    (1, '355', 'ALB', 'Albania - Fixed', 1), (2, '370', 'LTU', 'Lithuania - Fixed', 2),
    (3, '3706', 'LTU', 'Lithuania - Mobile', 3), (4, '999', 'ZZZ', 'No direction #1 & <more>', 0), (5, '99', null, null, 77);
insert into rates (id, tariff_id, destination_id, prefix, effective_from) values
    (1, 20, 2, '370', null), (2, 20, 2, '370', '2020-01-01'), (3, 20, 2, '370', '2020-01-01'), (4, 20, 2, '370', '2999-01-01'),
    (5, 20, 1, '355', null), (6, 20, 4, '999', null), (7, 20, 88, '1', null);
insert into ratedetails (id, rate_id, rate, connection_fee, start_time, end_time, daytype, increment_s, min_time) values
    (1, 1, 1, 0, '00:00', '23:59:59', '', 1, 0), (2, 2, 2, 0, '00:00', '23:59:59', '', 1, 0),
    (4, 3, 0.01572296, 0.05, '08:00', '17:59:59', 'WD', 60, 30), (3, 3, 0.375, null, '00:00', '24:00', 'FD', 1, 0),
    (5, 4, 4, 0, '00:00', '23:59:59', '', 1, 0), (6, 6, 100.5, 0.00005, '00:00', '23:59:59', null, 1, 0);
insert into rates (id, tariff_id, destinationgroup_id) values (10, 21, 1), (11, 21, 2), (12, 21, 77), (13, 21, 3), (14, 22, 2);
insert into aratedetails (id, rate_id, "from", duration, artype, round, price, daytype, start_time, end_time) values
    (1, 10, 61, -1, 'minute', 1, 0.2, 'WD', '00:00', '23:59:59'), (2, 10, 1, 60, 'minute', 60, 0.25, 'WD', '00:00', '23:59:59'),
    (3, 10, 1, -1, 'minute', 1, 0.15, 'FD', '00:00', '23:59:59'), (4, 10, null, 1, 'event', null, null, '', null, '24:00'),
    (5, 11, 1, -1, 'minute', 1, 0.123456789012345, '', '00:00', '23:59:59'), (6, 14, 1, -1, 'minute', 1, 0.07, '', '00:00', '23:59:59'),
    (7, 10, 1, 30, 'minute', 1, 0.25, 'WD', '00:00', '23:59:59');
insert into customrates (id, user_id, destinationgroup_id) values (1, 10, 2), (2, 10, 77), (3, 2, 2);
insert into acustratedetails (id, customrate_id, "from", duration, artype, round, price, daytype, start_time, end_time) values
    (2, 1, 1, -1, 'minute', 1, 0.012, 'WD', '00:00', '23:59:59'), (1, 1, 1, -1, 'minute', 1, 0.011, 'FD', '00:00', '23:59:59'),
    (3, 3, 1, -1, 'minute', 1, 7, '', '00:00', '23:59:59');
