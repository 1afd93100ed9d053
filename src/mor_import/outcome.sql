-- The decisions about findings, as outcomes of rows and cells.
drop table if exists mor_import.actions_of_findings, mor_import.left_out, mor_import.card_outcomes, mor_import.cells;

create unlogged table mor_import.actions_of_findings as
    select rule, "table", id, "column",
        case when decision in ('default', 'undecided') then default_action else decision end as action
    from mor_import.findings where "table" = 'cards' or default_action = 'leave-out';

create unlogged table mor_import.left_out as
    select distinct "table", id from mor_import.actions_of_findings where action = 'leave-out';
alter table mor_import.left_out add primary key ("table", id);

create unlogged table mor_import.card_outcomes as
    select id, bool_or(action = 'quarantine') as is_quarantined, bool_or(action = 'retire') as is_retired,
        bool_or(action = 'reserve') as is_reserved
    from mor_import.actions_of_findings
    where "table" = 'cards' and action in ('quarantine', 'retire', 'reserve')
    group by id;
alter table mor_import.card_outcomes add primary key (id);

-- An order keeps its lines; one of a card that is left out loses the reference.
insert into mor_import.findings (rule, "table", id, "column", original, replacement, value, money, default_action)
    select 'dangling_line', 'cclineitems', line.id, 'card_id', line.card_id, null, format('card %s', line.card_id), line.price, 'cleared'
    from mor_import.cclineitems line
    join mor_import.left_out on left_out."table" = 'cards' and left_out.id = line.card_id
    where not exists (select from mor_import.findings finding
        where finding.rule = 'dangling_line' and finding.id = line.id and finding."column" = 'card_id');

-- The new values of cells.
create unlogged table mor_import.cells as
    select distinct on ("table", id, "column") "table", id, "column", replacement
    from mor_import.findings where "column" is not null and not is_applied
    order by "table", id, "column", rule;
alter table mor_import.cells add primary key ("table", "column", id);
analyze mor_import.left_out, mor_import.card_outcomes, mor_import.cells;
