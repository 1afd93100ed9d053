//! Schema upgrades: the program starts on a database with the schema of each earlier version.

use std::sync::LazyLock;

use sqlx::migrate::Migrator;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};
use tokio::task::JoinHandle;

use crate::harness::program::Program;
use crate::harness::{FIXTURE_SQL, hash, postgres, with_timeout};

static MIGRATOR: Migrator = sqlx::migrate!();
/// The query that describes a schema.
const SCHEMA_SQL: &str = include_str!("../../../src/db/schema.sql");

/// Data of a shop that has been in use for some time. It needs only the columns of the first version.
const USAGE_SQL: &str = "
    insert into payments (paymenttype, amount, gross, tax, currency, date_added, completed, user_id, card, kind) values
        ('Manual', 12, 12, 1.915966386554622, 'USD', '2024-05-02', 1, 4, 1, 'sale'),
        ('Manual', 3.738495257841854, 3.738495257841854, 0, 'EUR', '2024-05-03', 1, 21, 1, 'sale'),
        ('Manual', 7, 7, null, 'LTL', '2011-01-01', 1, 22, 1, null);
    insert into cards (id, cardgroup_id, number, pin, balance, sold, callerid, retired_at) values
        (20, 6, '1111111020', '2020', 0, 0, null, '2024-05-01'),
        (21, 6, '1111111021', '2021', 3.141592653589793, 0, null, null),
        (22, 6, '1111111022', '2022', 0.000000000000001, 1, '3702222', null);
    insert into ccorders (id, ordertype, amount, completed) values (1, 'card', 12, 1);
    insert into cclineitems (cardgroup_id, quantity, ccorder_id, card_id, price) values (6, 1, 1, 4, 12);
    insert into actions (user_id, action, data) values (6, 'error', 'Incorrect hash');
    update users set balance = 1234.567890123456789, password_argon2 = 'kept' where id = 6";

/// Rows of tables that later versions added, with the first version that has the table.
const LATER_USAGE_SQL: [(i64, &str); 4] = [
    (
        8,
        "insert into idempotency_keys (user_id, operation, key, fingerprint, reply)
         values (6, 'x', 'k', 'f', '{\"a\":1}')",
    ),
    (
        10,
        "insert into email_outbox (owner_id, user_id, address, message_id, card_ids, balances, currency, sent_at)
          values (0, 6, 'a@b.test', 'm@b.test', '{4}', '{10.0840336134454}', 'USD', now() at time zone 'utc')",
    ),
    (
        21,
        "insert into change_log (who, operator, what, target_id, after) values ('command', 'ann', 'user', 6, '{\"a\":1}');
         insert into cards (id, cardgroup_id, number, pin, quarantined_at) values (23, 6, '1111111001', '1001', now());
         insert into cards (id, cardgroup_id, number, pin, withheld) values (24, 6, '1111111024', '2024', 'blocked')",
    ),
    (
        29,
        "insert into console_accounts (id, name, role, password_argon2, totp_secret) values (1, 'Ann', 'admin', 'hash', 'secret');
         insert into console_sessions (secret_sha256, account_id, client, browser) values ('a', 1, '192.0.2.1', 'Test')",
    ),
];

/// The ids of the cards of `FIXTURE_SQL` and `USAGE_SQL` that can be sold: not sold, hidden or retired, and without a
/// sale.
const SELLABLE_CARD_IDS: &str = "1 2 3 6 7 8 9 10 11 12 13";

/// The schema versions before the current one.
static EARLIER_VERSIONS: LazyLock<Vec<i64>> = LazyLock::new(|| {
    let mut versions: Vec<i64> = MIGRATOR.iter().map(|migration| migration.version).collect();
    versions.pop();
    versions
});

/// A database with an earlier schema and data.
struct OldDatabase {
    name: String,
    connection: PgConnection,
}

impl OldDatabase {
    async fn create(version: i64) -> Self {
        let name = postgres::create_database("").await;
        let mut connection = postgres::connect_options(&name).await.connect().await.unwrap();
        execute(&mut connection, "drop schema public cascade; create schema public").await;
        MIGRATOR.run_to(version, &mut connection).await.unwrap();
        execute(&mut connection, FIXTURE_SQL).await;
        execute(&mut connection, USAGE_SQL).await;
        for (_, sql) in LATER_USAGE_SQL.iter().filter(|(first_version, _)| *first_version <= version) {
            execute(&mut connection, sql).await;
        }
        Self { name, connection }
    }

    /// Returns this database and a copy of it.
    async fn into_twins(self) -> (Self, Self) {
        let Self { name, connection } = self;
        connection.close().await.unwrap();
        let copy = postgres::copy_database(&name).await;
        let connect = async |name: String| {
            let connection = postgres::connect_options(&name).await.connect().await.unwrap();
            Self { name, connection }
        };
        (connect(name).await, connect(copy).await)
    }

    /// The schema, and for each table the number of its rows and a sum of their digests.
    async fn fingerprint(&mut self) -> Vec<String> {
        let table_queries = "select format('select concat_ws('' '', %L, count(*),
                    coalesce(sum(hashtextextended(jsonb_build_array(%s)::text, 0)::numeric), 0)) from %I',
                table_name, string_agg(quote_ident(column_name), ', ' order by column_name), table_name)
            from information_schema.columns join information_schema.tables using (table_schema, table_name)
            where table_schema = 'public' and table_type = 'BASE TABLE' and table_name <> '_sqlx_migrations'
            group by table_name order by table_name";
        let mut lines = Vec::new();
        for query in self.query(table_queries).await {
            lines.extend(self.query(&query).await);
        }
        assert!(lines.len() > 20, "{lines:?}");
        let schema = "select concat_ws(' | ', kind, parent, name, definition, state) from (SCHEMA) object order by 1";
        lines.extend(self.query(&schema.replace("SCHEMA", SCHEMA_SQL.trim_end().trim_end_matches(';'))).await);
        lines
    }

    async fn migrate_to(&mut self, version: i64) {
        MIGRATOR.run_to(version, &mut self.connection).await.unwrap();
    }

    /// All rows of each table, with the table's present columns: the query and its result.
    async fn table_rows(&mut self) -> Vec<(String, Vec<String>)> {
        let table_queries = "select format('select jsonb_build_array(%s)::text from %I order by 1',
                string_agg(quote_ident(column_name), ', ' order by ordinal_position), table_name)
            from information_schema.columns join information_schema.tables using (table_schema, table_name)
            where table_schema = 'public' and table_type = 'BASE TABLE'
                and table_name not in ('_sqlx_migrations', 'card_stock')
            group by table_name order by table_name";
        let mut tables = Vec::new();
        for query in self.query(table_queries).await {
            let rows = self.query(&query).await;
            tables.push((query, rows));
        }
        tables
    }

    async fn query(&mut self, query: &str) -> Vec<String> {
        sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_all(&mut self.connection).await.unwrap()
    }

    /// Asserts that all migrations are applied and the stock is complete.
    async fn assert_upgraded(&mut self, version: i64) {
        let all_versions = MIGRATOR.iter().map(|migration| migration.version.to_string()).collect::<Vec<_>>();
        let applied = "select version::text from _sqlx_migrations where success order by _sqlx_migrations.version";
        assert_eq!(self.query(applied).await, all_versions, "from version {version}");
        let stock = "select coalesce(string_agg(card_id::text, ' ' order by card_id), 'nothing') from card_stock";
        assert_eq!(self.query(stock).await, [SELLABLE_CARD_IDS], "stock, from version {version}");
        let differences = "select card_id::text from card_stock_differences";
        assert!(self.query(differences).await.is_empty(), "stock, from version {version}");
    }
}

async fn execute(connection: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await.unwrap();
}

/// Buys cards from group 6; returns their numbers, or the error message.
async fn buy(program: &Program, quantity: u8) -> String {
    let form = format!("u=admin&id=6&quantity={quantity}&hash={}", hash(&format!("6{quantity}"), "secret"));
    let mut reply = String::new();
    program.post_streaming("card_from_group_sell", form, |bytes| reply += str::from_utf8(bytes).unwrap()).await;
    let texts_after = |tag: &str| -> Vec<String> {
        reply.split(tag).skip(1).map(|rest| rest.split('<').next().unwrap().to_owned()).collect()
    };
    [texts_after("<number>"), texts_after("<error>")].concat().join(" ")
}

#[tokio::test]
async fn upgrade_from_every_earlier_schema_keeps_data_and_stock() {
    assert!(EARLIER_VERSIONS.len() >= 11);
    for version in EARLIER_VERSIONS.iter().copied() {
        let mut database = OldDatabase::create(version).await;
        let before = database.table_rows().await;
        let program = Program::start_on_database(&database.name, &[]).await;
        database.assert_upgraded(version).await;
        for (query, rows) in &before {
            assert_eq!(&database.query(query).await, rows, "{query}, from version {version}");
        }
        let sold = [buy(&program, 1).await, buy(&program, 9).await, buy(&program, 1).await];
        let expected = ["0000000042", "1111111001 1111111002 1111111003", "Free cards was not found"];
        assert_eq!(sold, expected, "from version {version}");
        // The earlier sales, and one sale of each of these cards.
        let sales = "select string_agg(user_id::text, ' ' order by user_id) from payments where kind = 'sale'";
        assert_eq!(database.query(sales).await, ["1 2 3 4 6 21"], "from version {version}");
        program.stop();
    }
}

/// A negative `hidden`, and amounts that are NaN: written before there was a check for them.
const VIOLATIONS: &str = "
    update cards set hidden = -1 where id = 8;
    update cards set balance = 'NaN' where id = 11;
    update payments set fee = 'NaN' where user_id = 22;
    update currencies set exchange_rate = 'NaN' where name = 'JPY'";

#[tokio::test]
async fn rows_that_violate_a_check_do_not_stop_the_upgrade() {
    // cards_hidden is of version 11.
    let mut database = OldDatabase::create(10).await;
    execute(&mut database.connection, VIOLATIONS).await;
    let program = Program::start_on_database(&database.name, &[]).await;
    assert_eq!(buy(&program, 1).await, "0000000042");
    let unvalidated = "select conname::text from pg_constraint where contype = 'c' and not convalidated order by 1";
    assert_eq!(
        database.query(unvalidated).await,
        ["cards_amounts_finite", "cards_hidden", "currencies_rate_finite", "payments_amounts_finite"]
    );
    // New rows must satisfy the checks all the same.
    for statement in ["update cards set hidden = -1 where id = 7", "insert into payments (fee) values ('NaN')"] {
        let error = sqlx::raw_sql(statement).execute(&mut database.connection).await.unwrap_err();
        assert_eq!(error.as_database_error().and_then(|error| error.code()).as_deref(), Some("23514"), "{statement}");
    }
    let differences = mortise::db::schema::find_differences(&mut database.connection).await.unwrap();
    let messages: Vec<_> = differences.iter().map(|difference| difference.message.as_str()).collect();
    assert_eq!(
        messages,
        [
            "constraint cards.cards_amounts_finite has not been validated: rows can violate it",
            "constraint cards.cards_hidden has not been validated: rows can violate it",
            "constraint currencies.currencies_rate_finite has not been validated: rows can violate it",
            "constraint payments.payments_amounts_finite has not been validated: rows can violate it"
        ]
    );
    // The rows are corrected, and the checks are validated with the advised statements.
    execute(
        &mut database.connection,
        "update cards set hidden = 1 where id = 8; update cards set balance = 0 where id = 11;
         update payments set fee = 0 where user_id = 22; update currencies set exchange_rate = 1 where name = 'JPY'",
    )
    .await;
    for difference in differences {
        let statement = difference.advice.split('`').nth(1).unwrap();
        execute(&mut database.connection, statement).await;
    }
    assert!(database.query(unvalidated).await.is_empty());
    program.stop();
}

/// Waits until an aggregate condition on `pg_stat_activity` holds for the connections of the program.
async fn wait_until(options: &PgConnectOptions, condition: &str) {
    let mut connection = options.connect().await.unwrap();
    let query = format!(
        "select coalesce({condition}, false) from pg_stat_activity
         where application_name = 'mortise' and datname = current_database()"
    );
    let poll = async {
        while !sqlx::query_scalar::<_, bool>(AssertSqlSafe(query.clone())).fetch_one(&mut connection).await.unwrap() {
            tokio::task::yield_now().await;
        }
    };
    with_timeout(condition, poll).await;
}

/// Starts the program in a task, which ends when the program listens.
fn spawn_program(database: &str, acquire_timeout_ms: &'static str) -> JoinHandle<Program> {
    let database = database.to_owned();
    tokio::spawn(async move {
        Program::start_on_database(&database, &[("database_acquire_timeout_ms", acquire_timeout_ms)]).await
    })
}

/// The first program is killed at the seventh migration, which waits for a reader's lock of `cards`. Then two programs
/// start at the same time and complete the upgrade.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn killed_upgrade_is_completed_by_the_next_start() {
    let mut database = OldDatabase::create(1).await;
    let before = database.table_rows().await;
    let options = postgres::connect_options(&database.name).await;
    let mut reader = options.connect().await.unwrap();
    execute(&mut reader, "begin; lock table cards in access share mode").await;

    let mut killed =
        Program::command(&database.name, &[("database_acquire_timeout_ms", "60000")]).await.spawn().unwrap();
    wait_until(&options, "bool_or(wait_event_type = 'Lock')").await;
    killed.kill().unwrap();
    killed.wait().unwrap();
    wait_until(&options, "count(*) = 0").await;
    assert_eq!(database.query("select max(version)::text from _sqlx_migrations").await, ["6"]);

    let first = spawn_program(&database.name, "60000");
    wait_until(&options, "bool_or(wait_event = 'relation')").await;
    // The second program waits for the migration lock, even longer than its acquire timeout.
    let mut second = spawn_program(&database.name, "400");
    tokio::select! {
        second = &mut second => panic!("the second program did not wait: {:?}", second.err()),
        () = wait_until(&options, "bool_or(wait_event = 'advisory' and now() - query_start > interval '800 ms')") => {}
    }
    execute(&mut reader, "rollback").await;
    let (first, second) = (first.await.unwrap(), second.await.unwrap());
    database.assert_upgraded(1).await;
    for (query, rows) in &before {
        assert_eq!(&database.query(query).await, rows, "{query}");
    }
    assert_eq!([buy(&first, 1).await, buy(&second, 1).await], ["0000000042", "1111111001"]);
}

/// How many cards the tables have before the upgrade: the variable `UPGRADE_CARDS`, such as 1000000, or few.
fn card_count() -> u32 {
    std::env::var("UPGRADE_CARDS").map_or(20_000, |count| count.parse().unwrap())
}

/// Cards of group 11 with a batch number, every second one sold, with the rows that a sale has written.
fn filled_tables_sql(cards: u32) -> String {
    format!(
        "insert into cards (id, cardgroup_id, number, pin, balance, sold, active, batch_number, owner_id)
         select 1000 + i, 11, lpad(i::text, 8, '0'), lpad((i * 7919::bigint % 100000000)::text, 8, '0'), 1.5, i % 2, i % 2, 'B' || i % 9,
             i % 3
         from generate_series(1, {cards}) i;
         insert into payments (paymenttype, kind, amount, user_id, card, date_added, completed)
         select 'Card', 'sale', 1.5, id, 1, '2024-05-02'::timestamp + id * interval '1 second', 1 from cards where id > 1000 and sold = 1;
         insert into actions (user_id, action, target_type, target_id, data)
         select 0, 'card_sell_over_api', 'Card', id, '' from cards where id > 1000 and sold = 1;
         insert into ccorders (id, ordertype, email, amount)
         select id, 'unspecified', 'a' || id || '@b.test', 1.5 from cards where id > 1000 and sold = 1"
    )
}

const FILLED_TABLES_SUMMARY: &str = "select concat_ws(' ',
    (select concat_ws(' ', count(*), sum(balance), sum(sold), count(distinct pin), sum(hashtext(number))) from cards),
    (select concat_ws(' ', count(*), sum(amount), sum(user_id)) from payments),
    (select concat_ws(' ', count(*), sum(target_id)) from actions), (select count(*) from ccorders),
    (select concat_ws(' ', count(*), sum(card_id)) from card_stock))";

/// A migration that is killed when it has changed something, and waits for a lock.
struct KilledMigration {
    /// The version before the upgrade.
    from: i64,
    version: i64,
    first_line: &'static str,
    /// A transaction that the migration waits for.
    blocker: &'static str,
    /// What the migration has created before it waits.
    created: &'static str,
}

const KILLED_MIGRATIONS: [KilledMigration; 5] = [
    KilledMigration {
        from: 1,
        version: 21,
        first_line: "-- Card states%",
        blocker: "lock table actions in row exclusive mode",
        created: "information_schema.columns where column_name = 'withheld'",
    },
    KilledMigration {
        from: 20,
        version: 21,
        first_line: "-- Card states%",
        blocker: "lock table actions in row exclusive mode",
        created: "information_schema.columns where column_name = 'withheld'",
    },
    KilledMigration {
        from: 23,
        version: 24,
        first_line: "-- Two concurrent requests%",
        // It replaces the function at its end, when all cards and indexes are changed.
        blocker: "alter function is_number_used(text, integer, bigint) cost 101",
        created: "information_schema.columns where column_name = 'shares_number'",
    },
    KilledMigration {
        from: 24,
        version: 25,
        first_line: "-- What 0021 added%",
        blocker: "lock table actions in row exclusive mode",
        created: "pg_proc where proname = 'is_payment_kind'",
    },
    KilledMigration {
        from: 27,
        version: 28,
        first_line: "-- The backups that%",
        blocker: "lock table payments in row exclusive mode",
        created: "information_schema.tables where table_name = 'backups'",
    },
];

/// Numbers that cards of two owners have: migration 21 allows them, and migration 24 marks them.
const SHARED_NUMBERS_SQL: &str = "
    insert into cards (id, cardgroup_id, number, pin, owner_id)
    select 2000000 + id, 12, number, 'P' || id, 3 from cards where id between 1001 and 1100 and owner_id <> 3";

/// The program is killed in the midst of a migration, and started again: the result is that of an upgrade without
/// interruption.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn upgrade_of_filled_tables_survives_a_kill() {
    for migration in KILLED_MIGRATIONS {
        let KilledMigration { from, version, first_line, blocker, created } = migration;
        let mut database = OldDatabase::create(from).await;
        let cards = card_count();
        execute(&mut database.connection, &filled_tables_sql(cards)).await;
        if from == 23 {
            execute(&mut database.connection, SHARED_NUMBERS_SQL).await;
        }
        // Version 1 has no stock.
        let before = if from == 1 { None } else { Some(database.query(FILLED_TABLES_SUMMARY).await) };
        let (mut database, mut twin) = database.into_twins().await;
        let options = postgres::connect_options(&database.name).await;
        let mut writer = options.connect().await.unwrap();
        if from == 1 {
            database.migrate_to(20).await;
        }
        execute(&mut writer, &format!("begin; {blocker}")).await;
        let settings = [("database_acquire_timeout_ms", "600000")];
        let mut killed = Program::command(&database.name, &settings).await.spawn().unwrap();
        wait_until(&options, &format!("bool_or(wait_event_type = 'Lock' and query like '{first_line}')")).await;
        killed.kill().unwrap();
        killed.wait().unwrap();
        wait_until(&options, "count(*) = 0").await;
        let applied = "select max(version)::text from _sqlx_migrations";
        assert_eq!(database.query(applied).await, [(version - 1).to_string()]);
        assert_eq!(database.query(&format!("select count(*)::text from {created}")).await, ["0"]);
        execute(&mut writer, "rollback").await;

        let started_at = std::time::Instant::now();
        let program = Program::start_on_database(&database.name, &settings).await;
        println!("upgrade of {cards} cards from version {from}: {:?}", started_at.elapsed());
        Program::start_on_database(&twin.name, &settings).await.stop();
        assert_eq!(database.fingerprint().await, twin.fingerprint().await, "from version {from}");
        assert!(mortise::db::schema::find_differences(&mut database.connection).await.unwrap().is_empty());
        if let Some(before) = before {
            assert_eq!(database.query(FILLED_TABLES_SUMMARY).await, before);
        }
        let stock = "select count(*)::text from card_stock where cardgroup_id = 11";
        assert_eq!(database.query(stock).await, [(cards / 2).to_string()]);
        assert!(database.query("select card_id::text from card_stock_differences").await.is_empty());
        assert_eq!(buy(&program, 1).await, "0000000042");
        program.stop();
    }
}

/// Rows can violate the uniqueness if an index was dropped by hand. The upgrade changes nothing then, and names the
/// index.
#[tokio::test]
async fn doubled_pins_stop_the_upgrade() {
    let mut database = OldDatabase::create(20).await;
    execute(&mut database.connection, "drop index cards_pin; update cards set pin = '1001' where id = 1").await;
    let output = Program::command(&database.name, &[]).await.output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("could not create unique index \"cards_pin\"") && !message.contains("1001"), "{message}");
    assert_eq!(database.query("select max(version)::text from _sqlx_migrations").await, ["20"]);
    execute(
        &mut database.connection,
        "update cards set pin = '1003' where id = 1; create unique index cards_pin on cards (pin) where pin <> ''",
    )
    .await;
    let program = Program::start_on_database(&database.name, &[]).await;
    assert_eq!(buy(&program, 1).await, "0000000042");
    program.stop();
}

/// Until migration 24, concurrent requests and imports could give one number to cards of several owners.
#[tokio::test]
async fn numbers_of_several_owners_are_shared_after_the_upgrade() {
    let mut database = OldDatabase::create(23).await;
    execute(
        &mut database.connection,
        "insert into cards (id, cardgroup_id, number, pin, owner_id, hidden, quarantined_at) values
             (30, 12, '700001', '3030', 3, 0, null), (31, 11, '700001', '3131', null, 0, now()),
             (32, 9, '700001', '3232', 4, 0, null), (33, 12, '800001', '3333', 3, 1, null)",
    )
    .await;
    let program = Program::start_on_database(&database.name, &[]).await;
    let shared = "select id::text from cards where shares_number order by id";
    assert_eq!(database.query(shared).await, ["30", "32"]);
    program.stop();
}
