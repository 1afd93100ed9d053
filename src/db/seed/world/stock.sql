-- Creates the cards of the demo's world that are not sold: the stock of each group, a batch that was given to the
-- distributor 8, and a batch that was blocked. Their numbers follow those of the sold cards.
--
-- $1 PINs
with batch (position, cardgroup_id, name, quantity, withheld, distributor_id) as (
    values
        (1, 7, 'A', 110, null, -1),
        (2, 7, 'A-corner', 100, 'assigned', 8),
        (3, 8, 'B', 640, null, -1),
        (4, 8, 'B-stolen', 120, 'blocked', -1),
        (5, 9, 'N', 420, null, -1),
        (6, 10, 'T', 180, null, -1),
        (7, 11, 'S', 60, null, -1)
), card as (
    select batch.*, row_number() over (partition by cardgroup_id order by position, nth) as nth_of_group,
        row_number() over (order by position, nth) as nth_card
    from batch, generate_series(1, quantity) nth
), sold as materialized (
    select cardgroup_id, max(number)::bigint as last_number from cards group by cardgroup_id
), numbered as (
    select card.*, g.owner_id, g.price, coalesce(last_number, 5000000000) + nth_of_group as number
    from card join cardgroups g on g.id = card.cardgroup_id left join sold on sold.cardgroup_id = g.id
)
insert into cards (cardgroup_id, number, pin, balance, owner_id, batch_number, serial, withheld, user_id)
select cardgroup_id, number::text, pin, price, owner_id,
    case when length(name) = 1 then name || (1 + number % 1000000 / 500) else name end,
    case when cardgroup_id = 8 then 'EU-' || lpad((number % 1000000)::text, 6, '0') end, withheld, distributor_id
from numbered left join unnest($1::text[]) with ordinality drawn (pin, nth_card) using (nth_card)
order by nth_card
