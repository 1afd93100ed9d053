-- A sale payment keeps its card out of stock. Now the stock also follows a payment that is deleted or changed by hand, whether before
-- or after the change of the card.

-- Makes the stock row of a card agree with the card and its payments. The card is locked first, then its stock row, as in a sale.
create function card_stock_recheck(checked_card_id bigint) returns void language plpgsql as $$
declare
    card cards;
begin
    select * into card from cards where id = checked_card_id for no key update;
    if not found then
        return;
    end if;
    if is_in_stock(card) and not has_sale_payment(card) then
        insert into card_stock (cardgroup_id, number, card_id) values (card.cardgroup_id, card.number, card.id)
        on conflict do nothing;
    else
        delete from card_stock
        where cardgroup_id = card.cardgroup_id and number = card.number and card_id = card.id;
    end if;
end $$;

-- Only deletions and changes: a sale inserts payments, and pays for each trigger. A sale payment that is inserted by hand for a card in
-- stock is found by the next sale that picks the card: payments_sale_card_unique refuses it, and the server rechecks the card.
create function payment_stock_sync() returns trigger language plpgsql as $$
begin
    if old.kind = 'sale' then
        perform card_stock_recheck(old.user_id);
    end if;
    if tg_op = 'UPDATE' and new.kind = 'sale' then
        perform card_stock_recheck(new.user_id);
    end if;
    return null;
end $$;

create trigger payment_stock_update after update of kind, user_id on payments for each row execute function payment_stock_sync();
create trigger payment_stock_delete after delete on payments for each row execute function payment_stock_sync();
alter table payments enable always trigger payment_stock_update, enable always trigger payment_stock_delete;

comment on function card_stock_recheck(bigint) is 'Inserts or deletes the stock row of a card, as the card and its payments say.';
