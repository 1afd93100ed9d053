-- One statement can delete a sale payment and change its card: `with p as (delete from payments … returning user_id) update cards …`. The
-- trigger on payments can run first and insert the stock row. Then the trigger on cards must not insert it again.
create or replace function card_stock_sync() returns trigger language plpgsql as $$
begin
    if tg_op = 'UPDATE' and (old.id, old.cardgroup_id, old.number, old.sold, old.hidden, old.retired_at)
        is not distinct from (new.id, new.cardgroup_id, new.number, new.sold, new.hidden, new.retired_at) then
        return null;
    end if;
    if is_in_stock(old) then
        delete from card_stock
        where cardgroup_id = old.cardgroup_id and number = old.number and card_id = old.id;
    end if;
    if tg_op = 'UPDATE' and is_in_stock(new) and not has_sale_payment(new) then
        insert into card_stock (cardgroup_id, number, card_id) values (new.cardgroup_id, new.number, new.id)
        on conflict do nothing;
    end if;
    return null;
end $$;
