-- Creates the card groups of the demo's world: 7, 8 and 11 of the admin, 9 and 10 of the reseller. Group 11 is hidden.
insert into cardgroups (id, name, description, price, tariff_id, lcr_id, created_at, valid_from, valid_till, number_length,
    pin_length, tax_id, tell_balance_in_currency, owner_id, valid_after_first_use, hidden)
select id, name, description, round(gross / (1 + tax) / rate, 15), tariff_id, tariff_id, now - interval '60 days',
    now - interval '60 days', now + make_interval(days => days_valid), 10, 8, tax_id, currency, owner_id, days_after_use, hidden
from (values
        (7, 'Five dollar cards', 'Sold at the stations and in the web shop', 5.0, 0.19, 3, 'USD', 1.0, 0, 1, 2000, 0, 0),
        (8, 'Europe cards', '20 EUR, valid for 30 days after the first use', 20.0, 0.19, 3, 'EUR', 0.92, 0, 1, 2000, 30, 0),
        (9, 'Nordic ten', 'Ten dollars, 20 % VAT included', 10.0, 0.20, 4, 'USD', 1.0, 7, 2, 700, 0, 0),
        (10, 'Nordic travel', '25 EUR for travellers', 25.0, 0.20, 4, 'EUR', 0.92, 7, 2, 700, 0, 0),
        (11, 'Summer cards', 'The offer of last summer', 7.0, 0.19, 3, 'USD', 1.0, 0, 1, 30, 0, 1)
    ) demo (id, name, description, gross, tax, tax_id, currency, rate, owner_id, tariff_id, days_valid, days_after_use, hidden),
    (select now() at time zone 'utc' as now) clock
