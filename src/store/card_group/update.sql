-- Writes the sent values $1 (`Input`) and the tax row $3 into the card group $2. $4: the price is stored without the
-- taxes that the group has after the request. Amounts are converted to the system's currency here, because PostgreSQL
-- divides decimals exactly.
--
-- Changes nothing if a price would be divided by 0 or less: taxes of -100 % or less would change its sign.
update cardgroups set
    name = coalesce(input.name, cardgroups.name),
    description = coalesce(input.description, cardgroups.description),
    tax_id = $3,
    tariff_id = coalesce(input.tariff, tariff_id),
    lcr_id = coalesce(input.lcr, lcr_id),
    location_id = coalesce(input.location, location_id),
    tell_balance_in_currency = coalesce(input.currency, tell_balance_in_currency),
    use_external_function = coalesce(input.use_external_function, cardgroups.use_external_function),
    allow_loss_calls = coalesce(input.allow_loss_calls, cardgroups.allow_loss_calls),
    tell_cents = coalesce(input.tell_cents, cardgroups.tell_cents),
    solo_pinless = coalesce(input.solo_pinless, cardgroups.solo_pinless),
    disable_voucher = coalesce(input.disable_voucher, cardgroups.disable_voucher),
    callerid_leave = coalesce(input.callerid_leave, cardgroups.callerid_leave),
    disable_topup_from_cards_with_cid = coalesce(input.disable_topup_from_cards_with_cid, cardgroups.disable_topup_from_cards_with_cid),
    valid_from = coalesce(to_timestamp(input.valid_from) at time zone 'utc', cardgroups.valid_from),
    valid_till = coalesce(to_timestamp(input.valid_till) at time zone 'utc', cardgroups.valid_till),
    valid_after_first_use = coalesce(input.valid_after_first_use, cardgroups.valid_after_first_use),
    ghost_min_perc = coalesce(input.ghost_min_perc, cardgroups.ghost_min_perc),
    ghost_balance_perc = coalesce(input.ghost_balance_perc, cardgroups.ghost_balance_perc),
    price = case
        when input.price is null then cardgroups.price
        else divide_rounded(input.price, input.rate * case when $4 then 1 + effective_tax_rate($3, owner_id) else 1 end)
    end,
    setup_fee = case
        when input.setup_fee is null then cardgroups.setup_fee
        else divide_rounded(input.setup_fee, input.rate)
    end,
    daily_charge = case
        when input.daily_charge is null then cardgroups.daily_charge
        else divide_rounded(input.daily_charge, input.rate)
    end
from jsonb_to_record($1) as input (
        name text, description text, tariff integer, lcr integer, location integer, currency text,
        use_external_function smallint, allow_loss_calls smallint, tell_cents smallint, solo_pinless smallint,
        disable_voucher smallint, callerid_leave smallint, disable_topup_from_cards_with_cid smallint,
        valid_from bigint, valid_till bigint, valid_after_first_use integer,
        ghost_min_perc numeric, ghost_balance_perc numeric, price numeric, setup_fee numeric, daily_charge numeric,
        rate numeric
    )
where cardgroups.id = $2 and (input.price is null or not $4 or effective_tax_rate($3, owner_id) > -1)
