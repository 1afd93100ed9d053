-- What was for sale before there was a stock (0003) isn't in it: its triggers see a card when it changes. Such a database
-- has nothing to sell; any other is only looked at, some four seconds for a million cards.
select set_config(setting, 'on', true) from unnest(array['enable_seqscan', 'enable_hashjoin', 'enable_sort']) setting;

-- Once more looked at when it is locked: a server may be at work. (A card with a negative "hidden" couldn't be sold: 0011.)
insert into card_stock (cardgroup_id, number, card_id)
    select card.cardgroup_id, card.number, card.id
    from cards card
    join card_stock_differences difference on difference.card_id = card.id and difference.missing
    where is_in_stock(card) and card.hidden = 0
    order by card.number, card.id
    for no key update of card
on conflict do nothing;
