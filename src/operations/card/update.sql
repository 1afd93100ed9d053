-- Writes the sent values $1 (`Input`) into the card $2. $3 owner of the distributors that the caller may name.
update cards set
    number = coalesce(input.number, cards.number),
    shares_number = cards.shares_number and coalesce(input.number = cards.number, true),
    name = coalesce(input.name, cards.name),
    batch_number = coalesce(input.batch_number, cards.batch_number),
    language = coalesce(input.language, cards.language),
    pin = coalesce(input.pin, cards.pin),
    callerid = coalesce(input.callerid, cards.callerid),
    min_balance = coalesce(input.min_balance, cards.min_balance),
    daily_charge_paid_till = coalesce(
        to_timestamp(input.daily_charge_paid_till) at time zone 'utc', cards.daily_charge_paid_till
    ),
    first_use = case
        when input.clears_first_use then null
        else coalesce(to_timestamp(input.first_use) at time zone 'utc', cards.first_use)
    end,
    -- -1: no distributor.
    user_id = case
        when input.distributor is null then cards.user_id
        else coalesce(
            (select u.id from users u where u.id = input.distributor and u.usertype = 'user' and u.owner_id = $3), -1
        )
    end
from jsonb_to_record($1) as input (
        number text, name text, batch_number text, language text, pin text, callerid text, min_balance numeric,
        daily_charge_paid_till bigint, clears_first_use boolean, first_use bigint, distributor bigint
    )
where cards.id = $2
