-- A sale costs what PostgreSQL needs to set its plan up, more than what it does. What follows belongs to few sales:
-- called when they are needed, they cost the others nothing. PL/pgSQL, because a body in SQL is put into the statement that
-- calls it, and set up with it each time.

create or replace function tax_share_of(own_tax_id integer, owner_id integer) returns numeric
    language plpgsql stable parallel safe as $$
begin
    return coalesce(
        (select tax_share(t) from taxes t where t.id = own_tax_id),
        (select tax_share(t) from taxes t join users u on u.tax_id = t.id where u.id = tax_share_of.owner_id),
        (select tax_share(default_taxes()))
    );
end $$;

create or replace function system_rate_to(currency_name text) returns numeric
    language plpgsql stable parallel safe as $$
begin
    return coalesce((
        select case
            when lower(rtrim(own.name)) = lower(rtrim(currency_name)) then 1
            when other.id is null or coalesce(own.exchange_rate, 1) = 0 then 0
            when coalesce(own.exchange_rate, 1) = 1 then coalesce(other.exchange_rate, 1)
            else round(coalesce(other.exchange_rate, 1)::numeric(60, 30) / own.exchange_rate, 30)
        end
        from currencies own
        left join currencies other on lower(rtrim(other.name)) = lower(rtrim(currency_name))
        where own.id = 1 order by other.id limit 1
    ), 0);
end $$;

-- Spends every unused voucher of that number, and tells which; none where no number is given.
create function spend_vouchers(voucher_number text) returns table (voucher_id integer)
    language plpgsql strict as $$
begin
    return query
        update vouchers set use_date = now() at time zone 'utc'
        where use_date is null and number = voucher_number
        returning id;
end $$;

-- Whether MOR would save the card, in a group with these lengths. (Once it took the group's whole row, which had to be read for
-- each card.)
drop function is_sound(cards, cardgroups);
create function is_sound(card cards, pin_length integer, number_length integer) returns boolean
    language sql immutable parallel safe
    return coalesce(length(card.pin) = pin_length and btrim(card.pin) <> ''
        and length(card.number) = number_length and coalesce(card.min_balance, 0) >= 0, false);

-- The condition stands inside now: a trigger's WHEN is read from its text for each statement anew.
create or replace function card_stock_change() returns trigger language plpgsql as $$
begin
    if tg_op = 'UPDATE' and (old.id, old.cardgroup_id, old.number, old.sold, old.hidden, old.retired_at)
        is not distinct from (new.id, new.cardgroup_id, new.number, new.sold, new.hidden, new.retired_at) then
        return null;
    end if;
    if is_in_stock(old) then
        delete from card_stock
        where cardgroup_id = old.cardgroup_id and number = old.number and card_id = old.id;
    end if;
    if tg_op = 'UPDATE' and is_in_stock(new) and not was_sold(new) then
        insert into card_stock (cardgroup_id, number, card_id) values (new.cardgroup_id, new.number, new.id);
    end if;
    return null;
end $$;
drop trigger card_stock_change on cards;
create trigger card_stock_change after update of id, cardgroup_id, number, sold, hidden, retired_at on cards
    for each row execute function card_stock_change();
alter table cards enable always trigger card_stock_change;

-- Each card is changed at least once, when it is sold, and those sold one after the other stand on one page. With room for the new
-- versions there the change touches no index ("HOT"). Half, so that this goes for a hundred cards in one transaction too.
alter table cards set (fillfactor = 50);
