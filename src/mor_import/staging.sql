-- What the import knows beside the rows of MOR.

-- Invalid data. "decision" is the operator's, "default_action" what `default` means, "replacement" the new value of the cell.
create table mor_import.findings (
    rule text not null,
    "table" text not null,
    id bigint not null,
    "column" text,                                  -- NULL: the row as a whole
    original text,
    replacement text,
    value text,                                     -- for the report; a secret as its digest
    money numeric,
    decision text not null default 'default',
    default_action text not null,
    is_applied boolean not null default false,      -- the staged cell has the new value already
    -- How often the rule counts such cells; the report lists no single ones.
    is_counted boolean not null default false
);
create index on mor_import.findings ("table", id);

-- A row when all tables are staged: of which MOR, and which tables.
create table mor_import.staging (fingerprint text not null, tables text[] not null);

-- Cards of which MOR's calls know; filled where `calls` has an index on the card.
create unlogged table mor_import.called_cards (id bigint not null);

-- Whether a text is a date that exists, with or without a time.
create function mor_import.is_date(text) returns boolean language sql immutable parallel safe return
    case
        when $1 !~ '^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])( ([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9])?$' then false
        when $1 < '0001' then false
        when substr($1, 9, 2) <= '28' then true
        else substr($1, 9, 2)::integer
            <= extract(day from make_date(substr($1, 1, 4)::integer, substr($1, 6, 2)::integer, 1) + interval '1 month - 1 day')
    end;

-- A PIN, password, key or number of a voucher as the report shows it: equal ones have equal digests within a run, and the salt is lost with the schema.
create table mor_import.salt as select gen_random_uuid()::text as salt;
create function mor_import.digest(secret text) returns text language sql stable parallel safe return
    left(encode(sha256(convert_to((select salt from mor_import.salt) || secret, 'UTF8')), 'hex'), 12);

-- A text whose bytes in MySQL's latin1 (Windows-1252) are UTF-8: as that text. Another text as it is.
create function mor_import.repaired(text) returns text language plpgsql immutable as $repaired$
begin
    return convert_from(convert_to(translate($1,
        E'\u20ac\u201a\u0192\u201e\u2026\u2020\u2021\u02c6\u2030\u0160\u2039\u0152\u017d\u2018\u2019\u201c\u201d\u2022\u2013\u2014\u02dc\u2122\u0161\u203a\u0153\u017e\u0178',
        E'\u0080\u0082\u0083\u0084\u0085\u0086\u0087\u0088\u0089\u008a\u008b\u008c\u008e\u0091\u0092\u0093\u0094\u0095\u0096\u0097\u0098\u0099\u009a\u009b\u009c\u009e\u009f'
    ), 'LATIN1'), 'UTF8');
exception when character_not_in_repertoire or untranslatable_character then
    return $1;
end $repaired$;
