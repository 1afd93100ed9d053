-- MOR's tables as a server of version X7 has them, with the columns that the import reads and a few others.

create table `users` (
    `id` int(11) not null auto_increment primary key,
    `username` varchar(30) not null,
    `password` varchar(100) not null,
    `usertype` varchar(20) not null default 'user',
    `logged` tinyint(4) not null default '0',
    `first_name` varchar(50) not null,
    `last_name` varchar(50) not null,
    `balance` decimal(30,15) default '0.000000000000000',
    `lcr_id` bigint(20) not null default '0',
    `postpaid` tinyint(4) not null default '1',
    `blocked` tinyint(4) not null default '0',
    `tariff_id` bigint(20) not null default '0',
    `credit` decimal(30,15) default '-1.000000000000000',
    `address_id` int(11),
    `owner_id` int(11) default '0',
    `hidden` tinyint(4) default '0',
    `uniquehash` varchar(10),
    `tax_id` int(11) not null default '0',
    `acc_group_id` int(11) not null default '0',
    `currency_id` int(11) default '1',
    `time_zone` varchar(255) not null default 'UTC'
) engine = InnoDB default charset = utf8mb3;
create table `addresses` (
    `id` int(11) not null auto_increment primary key,
    `direction_id` int(11),
    `state` varchar(30),
    `county` varchar(30),
    `city` varchar(30),
    `postcode` varchar(20),
    `address` varchar(100),
    `phone` varchar(30),
    `mob_phone` varchar(30),
    `fax` varchar(30),
    `email` varchar(50)
) engine = InnoDB default charset = latin1;
create table `currencies` (
    `id` int(11) not null auto_increment primary key,
    `name` varchar(255) not null,
    `full_name` varchar(255),
    `exchange_rate` decimal(30,15) default '1.000000000000000',
    `active` tinyint(4) not null default '1',
    `last_update` timestamp not null default current_timestamp,
    `curr_edit` int(11) default '1'
) engine = InnoDB default charset = utf8mb3;
create table `taxes` (
    `id` int(11) not null auto_increment primary key,
    `tax1_enabled` tinyint(4) not null default '0',
    `tax2_enabled` tinyint(4) not null default '0',
    `tax3_enabled` tinyint(4) not null default '0',
    `tax4_enabled` tinyint(4) not null default '0',
    `tax1_name` varchar(255) not null default '',
    `tax2_name` varchar(255) not null default '',
    `tax3_name` varchar(255) not null default '',
    `tax4_name` varchar(255) not null default '',
    `total_tax_name` varchar(255) not null default '',
    `tax1_value` decimal(30,15) default '0.000000000000000',
    `tax2_value` decimal(30,15) default '0.000000000000000',
    `tax3_value` decimal(30,15) default '0.000000000000000',
    `tax4_value` decimal(30,15) default '0.000000000000000',
    `compound_tax` tinyint(4) default '1'
) engine = InnoDB default charset = utf8mb3;
create table `conflines` (
    `id` int(11) not null auto_increment primary key,
    `name` varchar(255),
    `value` varchar(255),
    `owner_id` int(11) default '0',
    `value2` text
) engine = InnoDB default charset = utf8mb3;
create table `tariffs` (
    `id` bigint(20) not null auto_increment primary key,
    `name` varchar(255) not null,
    `purpose` varchar(255) not null default 'user',
    `owner_id` int(11) default '0',
    `currency` varchar(255),
    `last_update_date` datetime
) engine = InnoDB default charset = utf8mb3;
create table `rates` (
    `id` bigint(20) not null auto_increment primary key,
    `tariff_id` bigint(20) not null default '0',
    `prefix` varchar(20),
    `destination_id` bigint(20) not null default '0',
    `destinationgroup_id` int(11),
    `ghost_min_perc` decimal(30,15) default '0.000000000000000',
    `effective_from` datetime
) engine = InnoDB default charset = utf8mb3;
create table `ratedetails` (
    `id` bigint(20) not null auto_increment primary key,
    `start_time` time not null default '00:00:00',
    `end_time` time not null default '23:59:59',
    `rate` decimal(30,15) default '0.000000000000000',
    `connection_fee` decimal(30,15) default '0.000000000000000',
    `rate_id` bigint(20) not null default '0',
    `increment_s` int(11) not null default '1',
    `min_time` int(11) not null default '0',
    `daytype` enum('','FD','WD') default ''
) engine = InnoDB default charset = utf8mb3;
create table `aratedetails` (
    `id` int(11) not null auto_increment primary key,
    `from` int(11),
    `duration` int(11),
    `artype` enum('event','minute'),
    `round` int(11),
    `price` decimal(30,15) default '0.000000000000000',
    `rate_id` int(11),
    `start_time` time default '00:00:00',
    `end_time` time default '23:59:59',
    `daytype` enum('','FD','WD') default ''
) engine = InnoDB default charset = utf8mb3;
create table `customrates` (
    `id` int(11) not null auto_increment primary key,
    `user_id` int(11),
    `destinationgroup_id` int(11)
) engine = InnoDB default charset = utf8mb3;
create table `acustratedetails` (
    `id` int(11) not null auto_increment primary key,
    `from` int(11),
    `duration` int(11),
    `artype` enum('event','minute'),
    `round` int(11),
    `price` decimal(30,15) default '0.000000000000000',
    `customrate_id` int(11),
    `start_time` time default '00:00:00',
    `end_time` time default '23:59:59',
    `daytype` enum('','FD','WD') default ''
) engine = InnoDB default charset = utf8mb3;
create table `destinations` (
    `id` bigint(20) not null auto_increment primary key,
    `prefix` varchar(50) not null,
    `direction_code` varchar(20),
    `subcode` varchar(255),
    `name` varchar(255),
    `city` varchar(255),
    `state` varchar(255),
    `lata` varchar(255),
    `tier` int(11),
    `ocn` varchar(255),
    `destinationgroup_id` int(11) default '0'
) engine = InnoDB default charset = utf8mb3;
create table `destinationgroups` (
    `id` int(11) not null auto_increment primary key,
    `name` varchar(255),
    `flag` varchar(10)
) engine = InnoDB default charset = utf8mb3;
create table `directions` (
    `id` bigint(20) not null auto_increment primary key,
    `name` varchar(255) not null,
    `code` varchar(20) not null,
    `iso31661code` varchar(3) not null default '000'
) engine = InnoDB default charset = utf8mb3;
create table `lcrs` (
    `id` bigint(20) not null auto_increment primary key,
    `name` varchar(255) not null,
    `order` varchar(255) not null default 'price',
    `user_id` int(11) default '0'
) engine = InnoDB default charset = utf8mb3;
create table `locations` (
    `id` int(11) not null auto_increment primary key,
    `name` varchar(255),
    `user_id` int(11) default '0'
) engine = InnoDB default charset = utf8mb3;
create table `devices` (
    `id` int(11) not null auto_increment primary key,
    `name` varchar(100) not null,
    `callerid` varchar(100),
    `extension` varchar(50) not null,
    `username` varchar(60) not null,
    `device_type` varchar(20),
    `user_id` int(11) not null default '0',
    `location_id` int(11) not null default '1',
    `description` varchar(255)
) engine = InnoDB default charset = utf8mb3;
create table `callerids` (
    `id` int(11) not null auto_increment primary key,
    `cli` varchar(255),
    `device_id` int(11),
    `description` varchar(255),
    `banned` int(4) default '0'
) engine = InnoDB default charset = utf8mb3;
create table `providers` (
    `id` bigint(20) not null auto_increment primary key,
    `name` varchar(255) not null,
    `tech` varchar(255) not null,
    `tariff_id` bigint(20) not null default '0',
    `device_id` bigint(20) not null default '0',
    `hidden` int(11) default '0',
    `user_id` int(11) default '0'
) engine = InnoDB default charset = utf8mb3;
create table `cardgroups` (
    `id` int(11) not null auto_increment primary key,
    `name` varchar(255) not null,
    `description` varchar(255) not null,
    `price` decimal(30,15) default '0.000000000000000',
    `setup_fee` decimal(30,15) default '0.000000000000000',
    `ghost_min_perc` decimal(30,15) default '100.000000000000000',
    `daily_charge` decimal(30,15) default '0.000000000000000',
    `tariff_id` int(11) not null default '0',
    `lcr_id` int(11) not null default '0',
    `created_at` datetime not null default '0000-00-00 00:00:00',
    `valid_from` datetime not null default '0000-00-00 00:00:00',
    `valid_till` datetime not null default '2010-01-01 00:00:00',
    `vat_percent` decimal(30,15) default '0.000000000000000',
    `number_length` int(11) not null default '10',
    `pin_length` int(11) not null default '6',
    `dialplan_id` int(11) not null default '0',
    `image` varchar(255) default 'example.jpg',
    `location_id` int(11) default '1',
    `owner_id` int(11) default '0',
    `tax_id` int(11) not null default '0',
    `valid_after_first_use` int(11) default '0',
    `ghost_balance_perc` decimal(30,15) default '100.000000000000000',
    `use_external_function` int(11) default '0',
    `allow_loss_calls` tinyint(4) default '0',
    `tell_cents` tinyint(1) default '0',
    `tell_balance_in_currency` varchar(5) default '',
    `solo_pinless` tinyint(1) default '0',
    `disable_voucher` tinyint(1) default '0',
    `hidden` tinyint(4) not null default '0',
    `callerid_leave` tinyint(4) not null default '0'
) engine = InnoDB default charset = utf8mb3;
create table `cards` (
    `id` bigint(20) not null auto_increment primary key,
    `balance` decimal(30,15) default '0.000000000000000',
    `cardgroup_id` int(11) not null default '0',
    `sold` tinyint(4) not null default '0',
    `number` varchar(255),
    `pin` varchar(255),
    `first_use` datetime,
    `daily_charge_paid_till` datetime,
    `frozen_balance` decimal(30,15) default '0.000000000000000',
    `owner_id` int(11) default '0',
    `callerid` varchar(30),
    `language` varchar(10) default 'en',
    `name` varchar(255) default '',
    `user_id` int(11) default '-1',
    `hidden` tinyint(4) not null default '0',
    `call_count` int(11) default '0',
    `min_balance` decimal(30,15) default '0.000000000000000',
    `active` tinyint(3) unsigned not null default '0',
    `batch_number` varchar(255) default ''
) engine = InnoDB default charset = utf8mb3;
create table `cclineitems` (
    `id` int(11) not null auto_increment primary key,
    `cardgroup_id` int(11),
    `quantity` int(11) not null default '0',
    `ccorder_id` int(11),
    `card_id` int(11),
    `price` decimal(30,15) default '0.000000000000000'
) engine = InnoDB default charset = utf8mb3;
create table `ccorders` (
    `id` int(11) not null auto_increment primary key,
    `amount` decimal(30,15) default '0.000000000000000',
    `currency` varchar(5) not null default 'USD',
    `ordertype` varchar(255),
    `email` varchar(255),
    `date_added` datetime,
    `completed` tinyint(4) not null default '0',
    `transaction_id` varchar(255),
    `shipped_at` datetime,
    `fee` decimal(30,15) default '0.000000000000000',
    `gross` decimal(30,15) default '0.000000000000000',
    `first_name` varchar(255),
    `last_name` varchar(255),
    `payer_email` varchar(255),
    `tax` decimal(30,15) default '0.000000000000000',
    `tax_percent` decimal(30,15) default '0.000000000000000'
) engine = InnoDB default charset = utf8mb3;
create table `payments` (
    `id` int(11) not null auto_increment primary key,
    `paymenttype` varchar(255),
    `amount` decimal(30,15) default '0.000000000000000',
    `currency` varchar(5) not null default 'USD',
    `email` varchar(255),
    `date_added` datetime,
    `completed` tinyint(4) not null default '0',
    `transaction_id` varchar(255),
    `shipped_at` datetime,
    `fee` decimal(30,15) default '0.000000000000000',
    `gross` decimal(30,15) default '0.000000000000000',
    `first_name` varchar(255),
    `last_name` varchar(255),
    `payer_email` varchar(255),
    `residence_country` varchar(255),
    `tax` decimal(30,15) default '0.000000000000000',
    `user_id` int(11),
    `pending_reason` varchar(255),
    `vat_percent` decimal(30,15) default '0.000000000000000',
    `owner_id` int(11) default '0',
    `card` tinyint(4) default '0',
    `payment_hash` varchar(32),
    `bill_nr` varchar(255),
    `description` text,
    `provider_id` int(11) default '-1'
) engine = InnoDB default charset = utf8mb3;
create table `actions` (
    `id` int(11) not null auto_increment primary key,
    `user_id` int(11) not null default '0',
    `date` datetime not null default '0000-00-00 00:00:00',
    `action` varchar(50) not null default '0',
    `data` varchar(255),
    `data2` varchar(255),
    `processed` int(11) default '0',
    `target_type` varchar(255) default '',
    `target_id` int(11),
    `data3` varchar(255),
    `data4` varchar(255)
) engine = InnoDB default charset = utf8mb3;
create table `acc_groups` (
    `id` int(11) not null auto_increment primary key,
    `name` varchar(255) not null default '',
    `only_view` tinyint(1) not null default '0',
    `group_type` varchar(20) not null default 'accountant',
    `description` text
) engine = InnoDB default charset = latin1;
create table `acc_rights` (
    `id` int(11) not null auto_increment primary key,
    `name` varchar(255) not null default '',
    `nice_name` varchar(255) not null default '',
    `permission_group` varchar(50) not null default '',
    `right_type` varchar(20) not null default 'accountant'
) engine = InnoDB default charset = utf8mb3;
create table `acc_group_rights` (
    `id` int(11) not null auto_increment primary key,
    `acc_group_id` int(11) not null,
    `acc_right_id` int(11) not null,
    `value` tinyint(4) not null
) engine = InnoDB default charset = utf8mb3;
create table `vouchers` (
    `id` int(11) not null auto_increment primary key,
    `number` varchar(255) not null,
    `tag` varchar(255) not null,
    `credit_with_vat` decimal(30,15) default '0.000000000000000',
    `vat_percent` decimal(30,15) default '0.000000000000000',
    `user_id` int(11) not null default '-1',
    `use_date` datetime,
    `active_till` datetime not null,
    `currency` varchar(255) not null,
    `payment_id` int(11),
    `active` tinyint(4) default '1',
    `tax_id` int(11) not null default '0'
) engine = InnoDB default charset = utf8mb3;
-- Tables that Mortise does not have.
create table calls (
    id bigint not null auto_increment primary key,
    card_id int,
    key calls_card_id (card_id)
) engine = InnoDB default charset = utf8mb3;
create table dids (id int not null auto_increment primary key, did varchar(50)) engine = InnoDB default charset = utf8mb3;
