-- Functions, triggers and indexes get the names that a database administrator searches for. Earlier migrations keep the old names:
-- a migration that was applied is never edited. The comments below appear in psql (\df+, \dt+, \d+).

alter function plain(numeric) rename to plain_text;
alter function quotient(numeric, numeric) rename to divide_rounded;
alter function times(numeric, numeric) rename to multiply_rounded;
alter function tax_share(taxes) rename to tax_rate;
alter function single_tax_share(taxes) rename to single_tax_rate;
alter function tax_share_of(integer, integer) rename to effective_tax_rate;
alter function system_rate_to(text) rename to exchange_rate_to;
alter function spend_vouchers(text) rename to redeem_vouchers;
alter function was_sold(cards) rename to has_sale_payment;
alter function is_sound(cards, integer, integer) rename to is_sellable;

-- PL/pgSQL resolves names when it runs: the bodies that use a renamed function, or their own name, are written again.
create or replace function effective_tax_rate(own_tax_id integer, owner_id integer) returns numeric
    language plpgsql stable parallel safe as $$
begin
    return coalesce(
        (select tax_rate(t) from taxes t where t.id = own_tax_id),
        (select tax_rate(t) from taxes t join users u on u.tax_id = t.id where u.id = effective_tax_rate.owner_id),
        (select tax_rate(default_taxes()))
    );
end $$;

alter function card_stock_add() rename to card_stock_insert;
alter function card_stock_change() rename to card_stock_sync;
alter function card_stock_empty() rename to card_stock_truncate;
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
        insert into card_stock (cardgroup_id, number, card_id) values (new.cardgroup_id, new.number, new.id);
    end if;
    return null;
end $$;
alter trigger card_stock_add on cards rename to card_stock_insert;
alter trigger card_stock_change on cards rename to card_stock_update;
alter trigger card_stock_remove on cards rename to card_stock_delete;
alter trigger card_stock_empty on cards rename to card_stock_truncate;

alter function tell_servers() rename to notify_cache;
alter trigger tell_servers on users rename to notify_cache;
alter trigger tell_servers on conflines rename to notify_cache;
alter trigger tell_servers on currencies rename to notify_cache;
alter trigger tell_servers on acc_rights rename to notify_cache;
alter trigger tell_servers on acc_group_rights rename to notify_cache;
alter function forget_old_password() rename to clear_password_argon2;
alter trigger forget_old_password on users rename to clear_password_argon2;

alter function email_failed() rename to audit_email_failure;
alter trigger email_failed_at_once on email_outbox rename to audit_email_failure_on_insert;
alter trigger email_failed on email_outbox rename to audit_email_failure_on_update;

alter index payments_one_sale_a_card rename to payments_sale_card_unique;
alter index email_outbox_waiting rename to email_outbox_pending;
alter index email_outbox_done rename to email_outbox_finished;

comment on table card_stock is 'Cards that can be sold, in selling order. Triggers on cards maintain it; a sold card has no row.';
comment on view card_stock_differences is 'Cards that are in stock according to only one of cards and card_stock. It is always empty.';
comment on table idempotency_keys is 'Replies to requests with an idempotency key, written in the transaction of the change.';
comment on table email_outbox is 'E-mails to buyers. A row is written in the transaction of the sale; a server claims it, then sends it.';
comment on function plain_text(numeric) is 'An amount with all its digits, without trailing zeros, with at least one decimal.';
comment on function divide_rounded(numeric, numeric) is 'A quotient rounded to the 15 decimals of stored amounts; 0 if the divisor is 0.';
comment on function multiply_rounded(numeric, numeric) is 'A product; rounded to 15 decimals if the rate has more decimals than a stored rate.';
comment on function tax_rate(taxes) is 'The tax rate of a tax row: 0.19 for 19 %. Tax 1 always applies, taxes 2 to 4 if enabled; compound taxes multiply.';
comment on function single_tax_rate(taxes) is 'The same where only tax 1 applies; NULL where others are enabled. It is short, so a statement plans faster.';
comment on function effective_tax_rate(integer, integer) is 'The tax rate of the own tax row, else of the owner''s tax row, else of the default taxes.';
comment on function exchange_rate_to(text) is 'The rate from the system currency to the named currency; 0 if either is unknown.';
comment on function redeem_vouchers(text) is 'Marks every unused voucher with this number as used, and returns their ids.';
comment on function is_in_stock(cards) is 'Whether the card is unsold, not hidden, not retired, and has a number.';
comment on function has_sale_payment(cards) is 'Whether a sale of the card was ever paid. Such a card is never sold again.';
comment on function is_sellable(cards, integer, integer) is 'Whether a MOR X7 server sells the card: it checks the lengths and the minimal balance.';
comment on function notify_cache() is 'Notifies every server, on the channel mortise_changes, that cached data changed.';
