-- Creates the cards whose numbers are not in use, each with a PIN that is not in use.
--
-- $1 first number, $2 last number, $3 number length, $4 random PINs, $5 values of each card (`CardValues`)
with card as materialized (
    select *
    from jsonb_to_record($5) as card (
        cardgroup_id integer, balance numeric, owner_id integer, min_balance numeric, batch_number text, language text,
        distributor_id integer
    )
), free as materialized (
    select number
    from generate_series($1::numeric, $2::numeric) n, lateral (select lpad(n::text, $3, '0') as number) padded
    where number not in (
        select c.number from cards c
        where c.number between lpad($1::text, $3, '0') and lpad($2::text, $3, '0')
            and (c.hidden = 0 or c.cardgroup_id = (select cardgroup_id from card))
    )
), made as (
    insert into cards (number, pin, cardgroup_id, balance, owner_id, min_balance, batch_number, language, user_id)
    select number, pin, cardgroup_id, balance, owner_id, min_balance, batch_number, language, distributor_id
    from card, rows from (
        unnest((select array_agg(number order by number) from free)),
        unnest(array(
            select pin from unnest($4::text[]) drawn (pin)
            where (select c.id from cards c where c.pin <> '' and c.pin = drawn.pin limit 1) is null
        ))
    ) new_card (number, pin)
    where number is not null and pin is not null
    returning id
)
select (select count(*) from free) as "free_numbers!", (select count(*) from made) as "created!"
