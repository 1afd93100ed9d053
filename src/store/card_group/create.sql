-- Creates a card group with the values $1 (`Input`), the owner $2 and the tax row $3. $4: the price is stored without
-- the taxes. Amounts are converted to the system's currency here, because PostgreSQL divides decimals exactly.
--
-- Creates nothing if the price would be divided by 0 or less: taxes of -100 % or less would change its sign.
insert into cardgroups (
    name, description, owner_id, tax_id, tariff_id, lcr_id, location_id, tell_balance_in_currency,
    use_external_function, allow_loss_calls, tell_cents, solo_pinless, disable_voucher, callerid_leave,
    disable_topup_from_cards_with_cid, created_at, valid_from, valid_till, valid_after_first_use,
    pin_length, number_length, ghost_min_perc, ghost_balance_perc, price, setup_fee, daily_charge
)
select
    input.name,
    coalesce(input.description, ''),
    $2::integer,
    $3::integer,
    input.tariff,
    input.lcr,
    input.location,
    input.currency,
    coalesce(input.use_external_function, 0),
    coalesce(input.allow_loss_calls, 0),
    coalesce(input.tell_cents, 0),
    coalesce(input.solo_pinless, 0),
    coalesce(input.disable_voucher, 0),
    coalesce(input.callerid_leave, 0),
    coalesce(input.disable_topup_from_cards_with_cid, 0),
    now() at time zone 'utc',
    to_timestamp(input.valid_from) at time zone 'utc',
    to_timestamp(input.valid_till) at time zone 'utc',
    coalesce(input.valid_after_first_use, 0),
    coalesce(input.pin_length, 6),
    coalesce(input.number_length, 10),
    coalesce(input.ghost_min_perc, 100),
    coalesce(input.ghost_balance_perc, 100),
    divide_rounded(coalesce(input.price, 0), input.rate * case when $4 then 1 + tax_rate(taxes) else 1 end),
    divide_rounded(coalesce(input.setup_fee, 0), input.rate),
    divide_rounded(coalesce(input.daily_charge, 0), input.rate)
from taxes,
    jsonb_to_record($1) as input (
        name text, description text, tariff integer, lcr integer, location integer, currency text,
        use_external_function smallint, allow_loss_calls smallint, tell_cents smallint, solo_pinless smallint,
        disable_voucher smallint, callerid_leave smallint, disable_topup_from_cards_with_cid smallint,
        valid_from bigint, valid_till bigint, valid_after_first_use integer, pin_length integer, number_length integer,
        ghost_min_perc numeric, ghost_balance_perc numeric, price numeric, setup_fee numeric, daily_charge numeric,
        rate numeric
    )
where taxes.id = $3 and (not $4 or tax_rate(taxes) > -1)
returning id
