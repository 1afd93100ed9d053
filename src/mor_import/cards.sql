-- Findings about cards. "Used" is judged on MOR's values alone: a card that was ever paid for, used or emptied must not come
-- into stock.

create unlogged table mor_import.paid_cards as
    select distinct user_id as id from mor_import.payments where card = 1 and user_id is not null;

create unlogged table mor_import.used_cards as
    select id from mor_import.cards where first_use ~ '[1-9]' or call_count > 0 or frozen_balance <> 0
    union
    select id from mor_import.paid_cards
    union
    select card_id from mor_import.cclineitems where card_id is not null
    union
    select card.id
    from mor_import.vouchers voucher
    join mor_import.cards card on card.number = voucher.number
    where voucher.use_date ~ '[1-9]'
    union
    select target_id from mor_import.actions
    where lower(target_type) = 'card' and target_id is not null
        and action !~* '^(calling_?)?cards?_?(add(ed)?|creat(e|ed|ion))$'
    union
    select data::bigint from mor_import.actions where action = 'card_payment_created' and data ~ '^[0-9]{1,18}$'
    union
    select data2::bigint from mor_import.actions
    where action = 'Disable_Voucher_when_Card_is_used' and data2 ~ '^[0-9]{1,18}$'
    union
    select id from mor_import.called_cards
    union
    select card.id
    from mor_import.cards card
    join mor_import.cardgroups cardgroup on cardgroup.id = card.cardgroup_id
    where coalesce(card.balance, 0) <> coalesce(cardgroup.price, 0);
alter table mor_import.used_cards add primary key (id);
analyze mor_import.used_cards;

-- Not sold by MOR's flag, but used. One that a transfer emptied is retired: nothing is left to decide.
insert into mor_import.findings (rule, "table", id, value, money, default_action)
    select case when is_emptied then 'emptied' else 'used_unsold' end, 'cards', id, number, balance,
        case when is_emptied then 'retire' else 'quarantine' end
    from (
        select card.id, card.number, coalesce(card.balance, 0) as balance,
            coalesce(card.balance, 0) = 0 and coalesce(card.frozen_balance, 0) = 0 and paid.id is not null as is_emptied
        from mor_import.cards card
        join mor_import.used_cards using (id)
        left join mor_import.paid_cards paid using (id)
        where coalesce(card.sold, 0) = 0
    ) card;

insert into mor_import.findings (rule, "table", id, value, money, default_action)
    select 'unsellable', 'cards', card.id,
        case when coalesce(btrim(card.number), '') = '' then 'no number'
            when length(card.number) <> cardgroup.number_length then card.number
            when coalesce(btrim(card.pin), '') = '' then 'no PIN'
            else format('PIN of %s characters', length(card.pin)) end,
        card.balance, 'reserve'
    from mor_import.cards card
    join mor_import.cardgroups cardgroup on cardgroup.id = card.cardgroup_id
    left join mor_import.used_cards used on used.id = card.id
    where coalesce(card.sold, 0) = 0 and coalesce(card.hidden, 0) = 0 and used.id is null
        and (coalesce(btrim(card.number), '') = '' or coalesce(btrim(card.pin), '') = ''
            or length(card.number) <> cardgroup.number_length or length(card.pin) <> cardgroup.pin_length);

insert into mor_import.findings (rule, "table", id, value, money, decision, default_action)
    select 'distributor', 'cards', card.id, format('distributor %s', card.user_id), card.balance, 'undecided', 'reserve'
    from mor_import.cards card
    left join mor_import.used_cards used on used.id = card.id
    where coalesce(card.sold, 0) = 0 and card.user_id <> -1 and used.id is null;

insert into mor_import.findings (rule, "table", id, "column", original, replacement, value, money, default_action)
    select 'sold_above_1', 'cards', id, 'sold', sold, '1', sold, balance, 'replaced'
    from mor_import.cards where sold not in (0, 1)
    union all
    select 'hidden_below_0', 'cards', id, 'hidden', hidden, '1', hidden, balance, 'replaced'
    from mor_import.cards where hidden < 0;

-- A group for each owner of cards without one. Its id is a new one, and its free cards are reserved.
create unlogged table mor_import.orphan_groups as
    select owner_id, (select next_id from mor_import.auto_increments where "table" = 'cardgroups')
        + row_number() over (order by owner_id) - 1 as id
    from (
        select distinct coalesce(card.owner_id, 0) as owner_id
        from mor_import.cards card
        left join mor_import.cardgroups cardgroup on cardgroup.id = card.cardgroup_id
        where cardgroup.id is null
    ) owner;
insert into mor_import.findings (rule, "table", id, "column", original, replacement, value, money, default_action)
    select 'orphan_card', 'cards', card.id, 'cardgroup_id', card.cardgroup_id, orphans.id, card.cardgroup_id, card.balance,
        case when coalesce(card.sold, 0) = 0 and used.id is null then 'reserve' else 'moved' end
    from mor_import.cards card
    left join mor_import.cardgroups cardgroup on cardgroup.id = card.cardgroup_id
    join mor_import.orphan_groups orphans on orphans.owner_id = coalesce(card.owner_id, 0)
    left join mor_import.used_cards used on used.id = card.id
    where cardgroup.id is null;

-- The card that MOR finds keeps the caller id.
insert into mor_import.findings (rule, "table", id, "column", original, replacement, value, money, default_action)
    select 'duplicate_callerid', 'cards', id, 'callerid', callerid, null, callerid, balance, 'cleared'
    from (
        select id, callerid, balance, row_number() over (partition by callerid order by coalesce(hidden, 0) <> 0, id) as position
        from mor_import.cards where callerid <> ''
    ) card
    where position > 1;

insert into mor_import.findings (rule, "table", id, value, money, default_action)
    select 'number_other_owner', 'cards', card.id, number, card.balance, 'keep'
    from mor_import.cards card
    join (
        select number from mor_import.cards where coalesce(hidden, 0) = 0
        group by number having min(coalesce(owner_id, 0)) <> max(coalesce(owner_id, 0))
    ) shared using (number)
    where coalesce(card.hidden, 0) = 0;

-- Cards that cannot be found both: the same number under one owner or in one group, the same PIN. The few keys that exist twice
-- are found first: a million cards are grouped in memory, not sorted.
create unlogged table mor_import.conflicts as
    select conflict.rule, conflict.key, conflict.scope, conflict.id, conflict.balance,
        conflict.is_sold or used.id is not null as is_used, quarantined.id is not null as is_quarantined
    from (
        select 'duplicate_number' as rule, number as key, same.owner_id as scope, card.id, card.balance,
            coalesce(card.sold, 0) <> 0 as is_sold
        from mor_import.cards card
        join (
            select number, coalesce(owner_id, 0) as owner_id from mor_import.cards where coalesce(hidden, 0) = 0
            group by number, coalesce(owner_id, 0) having count(*) > 1
        ) same using (number)
        where coalesce(card.hidden, 0) = 0 and coalesce(card.owner_id, 0) = same.owner_id
        union all
        select 'duplicate_number_in_group', number, cardgroup_id, card.id, card.balance, coalesce(card.sold, 0) <> 0
        from mor_import.cards card
        join (
            select number, cardgroup_id from mor_import.cards where coalesce(hidden, 0) = 0
            group by number, cardgroup_id having count(*) > 1
        ) same using (number, cardgroup_id)
        where coalesce(card.hidden, 0) = 0
        union all
        select 'duplicate_pin', mor_import.digest(pin), 0, card.id, card.balance, coalesce(card.sold, 0) <> 0
        from mor_import.cards card
        join (
            select pin from mor_import.cards where coalesce(hidden, 0) = 0 and pin <> '' group by pin having count(*) > 1
        ) same using (pin)
        where coalesce(card.hidden, 0) = 0
    ) conflict
    left join mor_import.used_cards used on used.id = conflict.id
    left join mor_import.findings quarantined
        on quarantined."table" = 'cards' and quarantined.id = conflict.id and quarantined.rule = 'used_unsold';

-- The used card wins; of several free ones the lowest id; several used ones are for the operator to decide.
insert into mor_import.findings (rule, "table", id, value, money, decision, default_action)
    select distinct on (id, rule) rule, 'cards', id, value, balance,
        case when used_cards > 1 and is_used then 'undecided' else 'default' end, 'quarantine'
    from (
        select case rule when 'duplicate_pin' then rule else 'duplicate_number' end as rule, key as value, id, balance,
            is_used and not is_quarantined as is_used,
            count(*) filter (where is_used and not is_quarantined) over same as used_cards,
            row_number() over (same order by is_used and not is_quarantined desc, is_used desc, is_quarantined, id) as position
        from mor_import.conflicts window same as (partition by rule, key, scope)
    ) card
    where case when used_cards > 1 then true else position > 1 end
    order by id, rule, is_used and used_cards > 1 desc;
