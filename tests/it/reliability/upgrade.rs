//! From the schema of every earlier version to this one, by the program's own start.

use std::sync::LazyLock;

use sqlx::migrate::Migrator;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, PgConnection};
use tokio::task::JoinHandle;

use crate::harness::program::Program;
use crate::harness::{FIXTURE_SQL, hash, postgres, with_timeout};

static MIGRATOR: Migrator = sqlx::migrate!();

/// What a shop has besides its world after a while. The first version's columns are enough for it.
const PAST: &str = "
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

/// What came with later versions, from the one on that brought its table.
const LATER: [(i64, &str); 2] = [
    (
        8,
        "insert into idempotency_keys (user_id, operation, key, fingerprint, reply) values (6, 'x', 'k', 'f', '{\"a\":1}')",
    ),
    (
        10,
        "insert into email_outbox (owner_id, user_id, address, message_id, card_ids, balances, currency, sent_at)
          values (0, 6, 'a@b.test', 'm@b.test', '{4}', '{10.0840336134454}', 'USD', now() at time zone 'utc')",
    ),
];

/// Those of `WORLD` and `PAST` that can be sold: neither sold, hidden nor retired, and paid for by nobody.
const FOR_SALE: &str = "1 2 3 6 7 8 9 10 11 12 13";

/// The schema's versions before this program's.
static EARLIER: LazyLock<Vec<i64>> = LazyLock::new(|| {
    let mut versions: Vec<i64> = MIGRATOR.iter().map(|migration| migration.version).collect();
    versions.pop();
    versions
});

/// A database as the program of that version left it.
struct Old {
    name: String,
    connection: PgConnection,
}

impl Old {
    async fn new(version: i64) -> Self {
        let name = postgres::create_database("").await;
        let mut connection = postgres::connect_options(&name).await.connect().await.unwrap();
        run(&mut connection, "drop schema public cascade; create schema public").await;
        MIGRATOR.run_to(version, &mut connection).await.unwrap();
        run(&mut connection, FIXTURE_SQL).await;
        run(&mut connection, PAST).await;
        for (_, sql) in LATER.iter().filter(|(since, _)| *since <= version) {
            run(&mut connection, sql).await;
        }
        Self { name, connection }
    }

    /// Each row of every table that has some, with the columns of now: what to ask for them, and what there is.
    async fn rows(&mut self) -> Vec<(String, Vec<String>)> {
        let tables = "select format('select jsonb_build_array(%s)::text from %I order by 1',
                string_agg(quote_ident(column_name), ', ' order by ordinal_position), table_name)
            from information_schema.columns join information_schema.tables using (table_schema, table_name)
            where table_schema = 'public' and table_type = 'BASE TABLE' and table_name not in ('_sqlx_migrations', 'card_stock')
            group by table_name order by table_name";
        let mut all = Vec::new();
        for query in self.ask(tables).await {
            let rows = self.ask(&query).await;
            all.push((query, rows));
        }
        all
    }

    async fn ask(&mut self, query: &str) -> Vec<String> {
        sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_all(&mut self.connection).await.unwrap()
    }

    /// Everything that a shop lives on, after a start.
    async fn is_whole(&mut self, version: i64) {
        let newest = MIGRATOR.iter().map(|migration| migration.version.to_string()).collect::<Vec<_>>();
        let applied = "select version::text from _sqlx_migrations where success order by _sqlx_migrations.version";
        assert_eq!(self.ask(applied).await, newest, "from {version}");
        let stock = "select coalesce(string_agg(card_id::text, ' ' order by card_id), 'nothing') from card_stock";
        assert_eq!(self.ask(stock).await, [FOR_SALE], "the stock, from {version}");
        let differences = "select card_id::text from card_stock_differences";
        assert!(self.ask(differences).await.is_empty(), "the stock, from {version}");
    }
}

async fn run(connection: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await.unwrap();
}

/// The numbers of the cards that a real request got, or its refusal.
async fn buy(program: &Program, quantity: u8) -> String {
    let form = format!("u=admin&id=6&quantity={quantity}&hash={}", hash(&format!("6{quantity}"), "secret"));
    let mut reply = String::new();
    program.post_streaming("card_from_group_sell", form, |bytes| reply += str::from_utf8(bytes).unwrap()).await;
    let between = |open: &str| -> Vec<String> {
        reply.split(open).skip(1).map(|rest| rest.split('<').next().unwrap().to_owned()).collect()
    };
    [between("<number>"), between("<error>")].concat().join(" ")
}

#[tokio::test]
async fn from_every_earlier_schema_nothing_is_lost_and_cards_are_sold_once() {
    assert!(EARLIER.len() >= 11);
    for version in EARLIER.iter().copied() {
        let mut old = Old::new(version).await;
        let before = old.rows().await;
        let program = Program::start_on_database(&old.name, &[]).await;
        old.is_whole(version).await;
        for (query, rows) in &before {
            assert_eq!(&old.ask(query).await, rows, "{query}, from {version}");
        }
        let sold = [buy(&program, 1).await, buy(&program, 9).await, buy(&program, 1).await];
        let expected = ["0000000042", "1111111001 1111111002 1111111003", "Free cards was not found"];
        assert_eq!(sold, expected, "from {version}");
        // Those of before, and each of these once.
        let sales = "select string_agg(user_id::text, ' ' order by user_id) from payments where kind = 'sale'";
        assert_eq!(old.ask(sales).await, ["1 2 3 4 6 21"], "from {version}");
        program.stop();
    }
}

/// Until this is true of the programs' connections.
async fn until(options: &PgConnectOptions, condition: &str) {
    let mut connection = options.connect().await.unwrap();
    let query = format!(
        "select coalesce({condition}, false) from pg_stat_activity where application_name = 'mortise' and datname = current_database()"
    );
    let true_at_last = async {
        while !sqlx::query_scalar::<_, bool>(AssertSqlSafe(query.clone())).fetch_one(&mut connection).await.unwrap() {
            tokio::task::yield_now().await;
        }
    };
    with_timeout(condition, true_at_last).await;
}

/// Starts the program, which may be long in coming up.
fn starting(database: &str, wait_ms: &'static str) -> JoinHandle<Program> {
    let database = database.to_owned();
    tokio::spawn(
        async move { Program::start_on_database(&database, &[("database_acquire_timeout_ms", wait_ms)]).await },
    )
}

/// Killed at its seventh step, which waits for somebody who reads cards; then two servers at once go on from there.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_upgrade_that_was_killed_is_completed_by_the_next_start() {
    let mut old = Old::new(1).await;
    let before = old.rows().await;
    let options = postgres::connect_options(&old.name).await;
    let mut reader = options.connect().await.unwrap();
    run(&mut reader, "begin; lock table cards in access share mode").await;

    let mut killed = Program::command(&old.name, &[("database_acquire_timeout_ms", "60000")]).await.spawn().unwrap();
    until(&options, "bool_or(wait_event_type = 'Lock')").await;
    killed.kill().unwrap();
    killed.wait().unwrap();
    until(&options, "count(*) = 0").await;
    assert_eq!(old.ask("select max(version)::text from _sqlx_migrations").await, ["6"]);

    let first = starting(&old.name, "60000");
    until(&options, "bool_or(wait_event = 'relation')").await;
    // However long that takes, and be it longer than a request would wait: the other one waits for its turn.
    let mut second = starting(&old.name, "400");
    tokio::select! {
        second = &mut second => panic!("it didn't wait: {:?}", second.err()),
        () = until(&options, "bool_or(wait_event = 'advisory' and now() - query_start > interval '800 ms')") => {}
    }
    run(&mut reader, "rollback").await;
    let (first, second) = (first.await.unwrap(), second.await.unwrap());
    old.is_whole(1).await;
    for (query, rows) in &before {
        assert_eq!(&old.ask(query).await, rows, "{query}");
    }
    assert_eq!([buy(&first, 1).await, buy(&second, 1).await], ["0000000042", "1111111001"]);
}
