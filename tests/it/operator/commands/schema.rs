//! The comparison of the schema with the migrations: `mortise doctor`, and the start of the server.

use mortise::db::schema::{Severity, find_differences};

use super::{command, run_command, url};
use crate::harness::{FIXTURE_SQL, postgres, server, server_on_database};

/// A damage, the message about it, and a part of the advice.
const DAMAGES: [(&str, Severity, &str, &str); 22] = [
    (
        "alter table idempotency_keys drop constraint idempotency_keys_pkey",
        Severity::Critical,
        "constraint idempotency_keys.idempotency_keys_pkey is missing",
        "add constraint idempotency_keys_pkey PRIMARY KEY (user_id, operation, key)`",
    ),
    (
        "drop index payments_sale_card_unique",
        Severity::Critical,
        "index payments_sale_card_unique is missing",
        "run `CREATE UNIQUE INDEX payments_sale_card_unique ON payments USING btree (user_id) WHERE",
    ),
    (
        "drop index users_owner",
        Severity::Major,
        "index users_owner is missing",
        "run `CREATE INDEX users_owner ON users",
    ),
    (
        "drop index cards_pin; create unique index cards_pin on cards (pin) where pin <> 'x'",
        Severity::Critical,
        "index cards_pin differs from the migrations: `CREATE UNIQUE INDEX cards_pin ON cards",
        "THEN id ELSE (0)::bigint END)) WHERE (pin <> ''::text)`",
    ),
    (
        "update pg_index set indisvalid = false where indexrelid = 'cards_callerid'::regclass",
        Severity::Critical,
        "index cards_callerid is invalid",
        "run `reindex index concurrently cards_callerid`",
    ),
    (
        "update pg_index set indisvalid = false where indexrelid = 'cards_pkey'::regclass",
        Severity::Critical,
        "index cards_pkey is invalid",
        "run `reindex index concurrently cards_pkey`",
    ),
    (
        "alter table cards drop constraint cards_sold",
        Severity::Major,
        "constraint cards.cards_sold is missing",
        "run `alter table cards add constraint cards_sold CHECK ((sold = ANY (ARRAY[0, 1])))`",
    ),
    (
        "update pg_constraint set convalidated = false where conname = 'cards_hidden'",
        Severity::Minor,
        "constraint cards.cards_hidden has not been validated",
        "alter table cards validate constraint cards_hidden",
    ),
    (
        "alter table cclineitems disable trigger all",
        Severity::Major,
        "constraint cclineitems.cclineitems_card_id_fkey is not enforced",
        "enable trigger all",
    ),
    (
        "drop trigger card_stock_update on cards",
        Severity::Critical,
        "trigger cards.card_stock_update is missing",
        "EXECUTE FUNCTION card_stock_sync(); alter table cards enable always trigger card_stock_update`",
    ),
    (
        "alter table cards disable trigger card_stock_insert",
        Severity::Critical,
        "trigger cards.card_stock_insert is disabled, expected enabled always",
        "run `alter table cards enable always trigger card_stock_insert`",
    ),
    (
        "create or replace function redeem_vouchers(voucher_number text) returns table (voucher_id integer)
             language plpgsql strict as 'begin end'",
        Severity::Critical,
        "function redeem_vouchers differs from the migrations",
        "pg_dump --schema-only",
    ),
    (
        "create or replace function is_in_stock(card cards) returns boolean language sql immutable parallel safe
             return card.sold = 0",
        Severity::Critical,
        "function is_in_stock differs from the migrations",
        "pg_dump --schema-only",
    ),
    ("drop view card_stock_differences", Severity::Major, "view card_stock_differences is missing", "from a backup"),
    ("drop table callerids", Severity::Critical, "table callerids is missing", "from a backup"),
    (
        "alter table payments set unlogged",
        Severity::Critical,
        "table payments differs from the migrations: `create unlogged table payments`",
        "restore the definition `create table payments`",
    ),
    (
        "alter table payments enable row level security, force row level security",
        Severity::Critical,
        "table payments has row security",
        "run `alter table payments disable row level security`",
    ),
    (
        "alter table addresses drop column county",
        Severity::Major,
        "column addresses.county is missing",
        "run `alter table addresses add column county text`",
    ),
    (
        "alter table payments alter column fee type numeric(20, 2)",
        Severity::Major,
        "column payments.fee differs from the migrations: `alter table payments add column fee numeric(20,2)",
        "fee numeric(30,15) default 0`",
    ),
    (
        "alter table users alter column username drop not null",
        Severity::Major,
        "column users.username differs from the migrations",
        "username text not null`",
    ),
    (
        "alter table tariffs alter column name type text collate \"C\"",
        Severity::Major,
        "column tariffs.name differs from the migrations: `alter table tariffs add column name text collate \"C\"",
        "add column name text not null`",
    ),
    (
        "alter sequence taxes_id_seq maxvalue 1000",
        Severity::Major,
        "sequence taxes_id_seq differs from the migrations",
        "maxvalue 2147483647 owned by taxes.id`",
    ),
];

#[tokio::test]
async fn every_kind_of_damage_is_found() {
    let server = server().await;
    assert!(find_differences(&server.pool).await.unwrap().is_empty());
    for (damage, severity, message, advice) in DAMAGES {
        let mut transaction = server.pool.begin().await.unwrap();
        sqlx::raw_sql(damage).execute(&mut *transaction).await.unwrap();
        let differences = find_differences(&mut *transaction).await.unwrap();
        let found = differences.iter().find(|difference| difference.message.starts_with(message));
        let found = found.unwrap_or_else(|| panic!("{damage}: {differences:?}"));
        assert!(found.advice.contains(advice), "{damage}: {found:?}");
        assert_eq!(found.severity, severity, "{damage}");
        // A missing table is one difference. (Each of the three foreign keys of cclineitems is disabled.)
        assert_eq!(differences.len(), if damage.contains("trigger all") { 3 } else { 1 }, "{damage}: {differences:?}");
        transaction.rollback().await.unwrap();
    }
}

#[tokio::test]
async fn additions_are_reported_if_they_can_refuse_writes() {
    let server = server().await;
    server
        .execute(
            "create table reports (id integer primary key); create index cards_report on cards (balance);
             alter table cards add column note text; create view sold as select id from cards where sold = 1;
             create function report() returns integer language sql return 1;
             alter index payments_sale_card_unique set (fillfactor = 80);
             alter table users enable row level security; create policy reports on users for select to public using (false)",
        )
        .await;
    assert!(find_differences(&server.pool).await.unwrap().is_empty());
    server
        .execute(
            "alter table cards add constraint cheap check (balance < 1000);
             create unique index payments_hash on payments (payment_hash);
             alter table users add column department text not null default ''; alter table users alter department drop default;
             create function stop() returns trigger language plpgsql as 'begin return null; end';
             create trigger stop before insert on actions for each row execute function stop()",
        )
        .await;
    let differences = find_differences(&server.pool).await.unwrap();
    assert!(differences.iter().all(|difference| difference.severity == Severity::Minor), "{differences:?}");
    let messages: Vec<_> = differences.iter().map(|difference| difference.message.as_str()).collect();
    assert_eq!(
        messages,
        [
            "column users.department is not from the migrations",
            "constraint cards.cheap is not from the migrations",
            "index payments_hash is not from the migrations",
            "trigger actions.stop is not from the migrations"
        ]
    );
}

/// Without the primary key of `idempotency_keys`, a request that is sent twice at the same time sells two cards.
#[tokio::test]
async fn server_does_not_start_without_what_money_depends_on() {
    for (damage, message) in [
        (
            "alter table idempotency_keys drop constraint idempotency_keys_pkey",
            "constraint idempotency_keys.idempotency_keys_pkey is missing",
        ),
        ("drop index payments_sale_card_unique", "index payments_sale_card_unique is missing"),
        ("drop index cards_group_number", "index cards_group_number is missing"),
        ("drop trigger card_stock_update on cards", "trigger cards.card_stock_update is missing"),
        (
            "alter table cards disable trigger card_stock_delete",
            "trigger cards.card_stock_delete is disabled, expected enabled always",
        ),
    ] {
        let database = postgres::create_database(FIXTURE_SQL).await;
        server_on_database(&database, &[]).await.execute(damage).await;
        let mut serve = command(&["serve", "--listen", "127.0.0.1:0"]);
        serve.env("DATABASE_URL", url(&database).await);
        // A server that starts nevertheless stops at once.
        serve.env("MORTISE_METRICS_LISTEN", "192.0.2.1:1");
        let output = run_command(serve, "");
        let expected = format!("mortise: the database schema is damaged ({message}): run `mortise doctor`");
        assert!(output.code == 4 && output.stderr.contains(&expected), "{damage}: {output:?}");
    }
}

/// With differences that do not endanger money the server starts, and logs a warning.
#[tokio::test]
async fn other_differences_are_a_warning_at_the_start() {
    let database = postgres::create_database(FIXTURE_SQL).await;
    server_on_database(&database, &[]).await.execute("drop index users_owner").await;
    let mut serve = command(&["serve", "--listen", "127.0.0.1:0"]);
    serve.env("DATABASE_URL", url(&database).await).env("MORTISE_METRICS_LISTEN", "192.0.2.1:1");
    let output = run_command(serve, "");
    assert!(output.stderr.contains("schema differs from the migrations"), "{output:?}");
    assert!(output.stderr.contains("cannot listen on 192.0.2.1:1"), "{output:?}");
}
