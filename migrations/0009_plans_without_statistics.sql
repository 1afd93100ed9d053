-- Before anybody has looked at a new table the planner takes an equality for rare: it read all of the partial index
-- cards_number, which promised cards with hidden = 0, for each card that it sold. Said like this the index promises nothing.
create or replace function is_in_stock(card cards) returns boolean
    language sql immutable parallel safe
    return card.sold = 0 and card.hidden < 1 and card.retired_at is null and card.number is not null;
