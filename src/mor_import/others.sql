-- Findings about the other tables, in which rows name each other.

insert into mor_import.findings (rule, "table", id, "column", original, replacement, value, money, default_action)
    select 'dangling_line', 'cclineitems', line.id, 'card_id', line.card_id, null, format('card %s', line.card_id), line.price, 'cleared'
    from mor_import.cclineitems line left join mor_import.cards card on card.id = line.card_id
    where line.card_id is not null and card.id is null
    union all
    select 'dangling_line', 'cclineitems', line.id, 'ccorder_id', line.ccorder_id, null, format('order %s', line.ccorder_id),
        line.price, 'cleared'
    from mor_import.cclineitems line left join mor_import.ccorders ccorder on ccorder.id = line.ccorder_id
    where line.ccorder_id is not null and ccorder.id is null
    union all
    select 'dangling_line', 'cclineitems', line.id, 'cardgroup_id', line.cardgroup_id, null, format('group %s', line.cardgroup_id),
        line.price, 'cleared'
    from mor_import.cclineitems line left join mor_import.cardgroups cardgroup on cardgroup.id = line.cardgroup_id
    where line.cardgroup_id is not null and cardgroup.id is null;

insert into mor_import.findings (rule, "table", id, "column", original, replacement, value, default_action)
    select 'doubled_name', name."table", id, 'name', name, format('%s (%s)', name, id), name, 'renamed'
    from (
        select 'cardgroups' as "table", id, name, row_number() over (partition by name order by id) as position
        from mor_import.cardgroups
        union all
        select 'tariffs', id, name, row_number() over (partition by owner_id, name order by id) from mor_import.tariffs
        union all
        select 'acc_rights', id, name, row_number() over (partition by fold_case(name) order by id) from mor_import.acc_rights
    ) name
    where position > 1 and name is not null;
-- The new name can exist too.
update mor_import.findings finding set replacement = format('%s (%s)', replacement, finding.id)
where rule = 'doubled_name' and (
    "table" = 'cardgroups' and exists (select from mor_import.cardgroups where name = finding.replacement)
    or "table" = 'tariffs' and exists (select from mor_import.tariffs where name = finding.replacement)
    or "table" = 'acc_rights' and exists (
        select from mor_import.acc_rights where fold_case(name) = fold_case(finding.replacement)));

-- Currencies are found by name, without regard to letter case.
create unlogged table mor_import.doubled_currencies as
    select id, name, first_id, first_name
    from (
        select id, name, first_value(id) over same as first_id, first_value(name) over same as first_name
        from mor_import.currencies
        where length(btrim(name)) between 1 and 5
        window same as (partition by fold_case(rtrim(name)) order by id)
    ) currency
    where id <> first_id;
insert into mor_import.findings (rule, "table", id, value, default_action)
    select 'doubled_currency', 'currencies', id, name, 'leave-out' from mor_import.doubled_currencies;
insert into mor_import.findings (rule, "table", id, "column", original, replacement, value, default_action)
    select 'currency_merged', 'users', "user".id, 'currency_id', currency_id::text, doubled.first_id::text, doubled.name, 'replaced'
    from mor_import.users "user"
    join mor_import.doubled_currencies doubled on doubled.id = "user".currency_id
    union all
    select 'currency_merged', 'cardgroups', cardgroup.id, 'tell_balance_in_currency', doubled.name, doubled.first_name, doubled.name,
        'replaced'
    from mor_import.cardgroups cardgroup
    join (select distinct name, first_name from mor_import.doubled_currencies where name <> first_name) doubled
        on doubled.name = cardgroup.tell_balance_in_currency;

insert into mor_import.findings (rule, "table", id, value, decision, default_action)
    select 'bad_currency', 'currencies', currency.id, currency.name,
        case when exists (select from mor_import.users where currency_id = currency.id)
            or currency.name <> '' and exists (select from mor_import.cardgroups where tell_balance_in_currency = currency.name)
            then 'undecided' else 'default' end,
        'leave-out'
    from mor_import.currencies currency
    where coalesce(length(btrim(currency.name)), 0) not between 1 and 5 or length(currency.name) > 5;
