-- A hidden card is still found by its number, by who asks for its balance. There are few of them.
create index cards_hidden_number on cards (number) where hidden <> 0;
