-- No amount is NaN. (numeric(30, 15) cannot hold an infinite value, but balances of email_outbox can.) NaN is greater than every other
-- number, so one short comparison per table tests all its amounts: each check costs every sale some time.
-- "not valid": a row that violates a check stays, and doctor names it. The next migration validates the checks.
alter table users add constraint users_amounts_finite check (greatest(balance, credit) < 'Infinity') not valid;
alter table currencies add constraint currencies_rate_finite check (exchange_rate < 'Infinity') not valid;
alter table taxes add constraint taxes_values_finite
    check (greatest(tax1_value, tax2_value, tax3_value, tax4_value) < 'Infinity') not valid;
alter table cardgroups add constraint cardgroups_amounts_finite
    check (greatest(price, setup_fee, ghost_min_perc, daily_charge, vat_percent, ghost_balance_perc) < 'Infinity') not valid;
alter table cards add constraint cards_amounts_finite
    check (greatest(balance, frozen_balance, min_balance) < 'Infinity') not valid;
alter table payments add constraint payments_amounts_finite
    check (greatest(amount, fee, gross, tax, vat_percent) < 'Infinity') not valid;
alter table ccorders add constraint ccorders_amounts_finite
    check (greatest(amount, fee, gross, tax, tax_percent) < 'Infinity') not valid;
alter table cclineitems add constraint cclineitems_price_finite check (price < 'Infinity') not valid;
alter table vouchers add constraint vouchers_amounts_finite check (greatest(credit_with_vat, vat_percent) < 'Infinity') not valid;
alter table email_outbox add constraint email_outbox_balances_finite
    check (not balances && '{NaN, Infinity, -Infinity}') not valid;
