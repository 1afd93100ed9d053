-- For the commands of the back office: the state of a card in one word, what a blocked card is afterwards, the e-mails of a sale.

-- Without a check: each check costs every sale some time.
alter table cards add column unblocked_as text;

-- Null: false, or a payment of before.
alter table payments add column tax_included boolean;

-- An e-mail is written in the transaction of its sale, at the same time.
create index email_outbox_created_at on email_outbox (created_at);

create function card_state(card cards) returns text
    language sql stable parallel safe
    return case
        when card.retired_at is not null then 'retired'
        when card.quarantined_at is not null then 'quarantined'
        when card.hidden <> 0 then 'deleted'
        when card.withheld = 'blocked' then 'blocked'
        when card.sold = 1 or has_sale_payment(card) then 'sold'
        when card.withheld is not null then card.withheld
        else 'free'
    end;

-- PostgreSQL inlines this function, so that a statement that is planned for its values reads an index.
create function is_selected(card cards, wanted_cardgroup_id integer, wanted_batch_number text, first_number text, last_number text)
    returns boolean language sql immutable parallel safe
    return card.hidden = 0 and card.quarantined_at is null
        and (wanted_cardgroup_id is null or card.cardgroup_id = wanted_cardgroup_id)
        and (wanted_batch_number is null or card.batch_number = wanted_batch_number and card.batch_number <> '')
        and (first_number is null or card.number between first_number and last_number and length(card.number) = length(first_number));

comment on column cards.unblocked_as is 'The value of withheld that a blocked card gets back when it is unblocked.';
comment on column payments.tax_included is
    'Whether amount includes tax: a top-up by card_payment_add, and its refund. Null: no.';
comment on function card_state(cards) is
    'The state of a card: retired, quarantined, deleted, blocked, sold, assigned, reserved or free. The first that applies.';
comment on function is_selected(cards, integer, text, text, text) is
    'Whether a command on many cards selects the card: by its group, its batch, a range of numbers of one length. Null: any.';
