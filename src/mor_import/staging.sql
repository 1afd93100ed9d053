-- What the import knows beside the rows of MOR.

-- Invalid data. "decision" is the operator's, "default_action" what `default` means, "replacement" the new value of the cell.
create table mor_import.findings (
    rule text not null,
    "table" text not null,
    id bigint not null,
    "column" text,                                  -- NULL: the row as a whole
    original text,
    replacement text,
    value text,                                     -- for the report; no PIN
    money numeric,
    decision text not null default 'default',
    default_action text not null,
    is_applied boolean not null default false,      -- the staged cell has the new value already
    -- How often the rule counts such cells; the report lists no single ones.
    is_counted boolean not null default false
);
create index on mor_import.findings ("table", id);

-- Cards of which MOR's calls know; filled where `calls` has an index on the card.
create unlogged table mor_import.called_cards (id bigint not null);

-- Whether a text is a date that exists, with or without a time.
create function mor_import.is_date(text) returns boolean language sql immutable return
    case
        when $1 !~ '^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])( ([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9])?$' then false
        when $1 < '0001' then false
        when substr($1, 9, 2) <= '28' then true
        else substr($1, 9, 2)::integer
            <= extract(day from make_date(substr($1, 1, 4)::integer, substr($1, 6, 2)::integer, 1) + interval '1 month - 1 day')
    end;

-- A PIN as the report shows it: equal PINs have equal digests within a run, and the salt is lost with the schema.
create table mor_import.salt as select gen_random_uuid()::text as salt;
create function mor_import.digest(pin text) returns text language sql stable return
    left(encode(sha256(convert_to((select salt from mor_import.salt) || pin, 'UTF8')), 'hex'), 12);
