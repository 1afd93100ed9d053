-- The cards that can be sold, in the order in which they are sold. A sale must find the next free card as fast with ten
-- million sold ones behind it as with none; an index on cards itself fills with dead entries at exactly the place where
-- every sale looks, and keeps the update of the card from being HOT. Here a sold card's row is simply gone.
--
-- Triggers keep it true for every way of writing to cards, by hand and under a replica role too, so that nobody has to
-- remember. Everyone locks the card first and its stock row second.

create table card_stock (
    cardgroup_id integer not null,
    number text collate "C" not null,
    card_id bigint not null,
    primary key (cardgroup_id, number, card_id)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0);

create function is_in_stock(card cards) returns boolean
    language sql immutable parallel safe
    return card.sold = 0 and card.hidden = 0 and card.retired_at is null and card.number is not null;

-- A card is sold once, ever. One whose sale was paid stays out of stock, though somebody wrote sold = 0 into it: offered
-- again, it would be refused by payments_one_sale_a_card, and stand in the way of all the others.
create function was_sold(card cards) returns boolean
    language sql stable parallel safe
    return exists (select from payments where kind = 'sale' and user_id = card.id);

-- Whether MOR would save the card; an X7 server doesn't sell one that it can't save (x7.md). The duplicates that it looks
-- for besides can't be in the database.
create function is_sound(card cards, cardgroup cardgroups) returns boolean
    language sql immutable parallel safe
    return coalesce(length(card.pin) = cardgroup.pin_length and btrim(card.pin) <> ''
        and length(card.number) = cardgroup.number_length and coalesce(card.min_balance, 0) >= 0, false);

create function card_stock_add() returns trigger language plpgsql as $$
begin
    insert into card_stock (cardgroup_id, number, card_id)
    select added.cardgroup_id, added.number, added.id from added
    where added.sold = 0 and added.hidden = 0 and added.retired_at is null and added.number is not null
        and not exists (select from payments where kind = 'sale' and user_id = added.id);
    return null;
end $$;

create function card_stock_change() returns trigger language plpgsql as $$
begin
    if is_in_stock(old) then
        delete from card_stock
        where cardgroup_id = old.cardgroup_id and number = old.number and card_id = old.id;
    end if;
    if tg_op = 'UPDATE' and is_in_stock(new) and not was_sold(new) then
        insert into card_stock (cardgroup_id, number, card_id) values (new.cardgroup_id, new.number, new.id);
    end if;
    return null;
end $$;

create function card_stock_empty() returns trigger language plpgsql as $$
begin
    truncate card_stock;
    return null;
end $$;

create trigger card_stock_add after insert on cards
    referencing new table as added
    for each statement execute function card_stock_add();
create trigger card_stock_change after update of id, cardgroup_id, number, sold, hidden, retired_at on cards
    for each row
    when ((old.id, old.cardgroup_id, old.number, old.sold, old.hidden, old.retired_at)
        is distinct from (new.id, new.cardgroup_id, new.number, new.sold, new.hidden, new.retired_at))
    execute function card_stock_change();
create trigger card_stock_remove after delete on cards
    for each row execute function card_stock_change();
create trigger card_stock_empty after truncate on cards
    for each statement execute function card_stock_empty();
alter table cards
    enable always trigger card_stock_add,
    enable always trigger card_stock_change,
    enable always trigger card_stock_remove,
    enable always trigger card_stock_empty;

-- For auditors: every row is a card that is in stock on one side only. It must be empty.
create view card_stock_differences as
    select coalesce(stock.card_id, card.id) as card_id, stock.card_id is null as missing
    from card_stock stock
    full join (select id, cardgroup_id, number from cards where is_in_stock(cards) and not was_sold(cards)) card
        on card.id = stock.card_id and card.cardgroup_id = stock.cardgroup_id and card.number = stock.number
    where stock.card_id is null or card.id is null;
