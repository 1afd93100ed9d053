-- Two concurrent requests could give one number to cards of two owners: the unique index of 0021 counted each owner's numbers alone.
-- Now a number is unique among the cards of all owners. An import brings numbers that cards of several owners have: one owner's cards
-- count as the others do, and the cards of the other owners share the number (shares_number), each owner's unique.
--
-- The second column of each index tells apart what may have the same number or PIN: a deleted or quarantined card by its id, cards that
-- share their number by their owner (-1, -2, …), and all other cards not at all (0). So one index finds every card.
lock table cards in access exclusive mode;

alter table cards add column shares_number boolean not null default false;
comment on column cards.shares_number is
    'Set by the import: the number was first given to a card of another owner. It is unique among the cards of this owner that share it.';

-- Numbers that several owners have already. (Reading the whole table is best: the session allows index scans only.)
select set_config(setting, 'on', true) from unnest(array['enable_seqscan', 'enable_hashjoin', 'enable_sort']) setting;
with several_owners as materialized (
    select number from cards where hidden = 0 and quarantined_at is null
    group by number having min(coalesce(owner_id, 0)) <> max(coalesce(owner_id, 0))
), card as (
    select id, coalesce(owner_id, 0) as owner_id,
        first_value(coalesce(owner_id, 0)) over (partition by number order by id) as first_owner_id
    from cards join several_owners using (number)
    where hidden = 0 and quarantined_at is null
)
update cards set shares_number = true from card where cards.id = card.id and card.owner_id <> card.first_owner_id;

drop index if exists cards_number, cards_excluded_number, cards_pin, cards_excluded_pin;
create unique index cards_number on cards (number, (case
    when hidden <> 0 or quarantined_at is not null then id when shares_number then -1 - coalesce(owner_id, 0) else 0 end));
create unique index cards_pin on cards (pin, (case when hidden <> 0 or quarantined_at is not null then id else 0 end)) where pin <> '';

create or replace function is_number_used(wanted text, own_cardgroup_id integer, own_card_id bigint default null) returns boolean
    language plpgsql stable parallel safe as $$
begin
    return exists (select from cards
        where number = wanted and (hidden = 0 or cardgroup_id = own_cardgroup_id) and id is distinct from own_card_id);
end $$;
create or replace function is_pin_used(wanted text, own_card_id bigint default null) returns boolean
    language plpgsql stable parallel safe as $$
begin
    return exists (select from cards where pin <> '' and pin = wanted and id is distinct from own_card_id);
end $$;
