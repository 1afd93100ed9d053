//! The measurements of `mortise import`, against pgloader with the same cards, without the invalid ones.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mortise::managed_postgres::{ManagedPostgres, STOP_TIMEOUT};
use sqlx::{AssertSqlSafe, PgPool};

use crate::fixtures::peak_memory_mb;
use crate::report::{Goal, Measurement, Report};

const MOR_TABLES: &str = include_str!("../../tests/it/mor_import/mor_x7.sql");
const PASSWORD: &str = "bench";
/// The numbers of rows, for a number of cards.
const CARDS_PER_PAYMENT: f64 = 10.0 / 3.0;
const CARDS_PER_VOUCHER: f64 = 20.0;

/// What each database has.
const BASICS: &str = "
    insert into users (id, username, password, usertype, first_name, last_name) values (0, 'admin', '', 'admin', '', '');
    insert into currencies (id, name, last_update) values (1, 'USD', '2014-05-01 10:00:00');
    insert into cardgroups (id, name, description, price, number_length, pin_length, created_at, valid_from, valid_till)
        select seq, concat('group ', seq), '', 10, 12, 10, '2014-01-01 12:00:00', '2014-01-01 00:00:00', '2030-01-01 00:00:00'
        from seq_1_to_50;";

/// Cards of which every third is sold. Of a hundred, five are invalid in different ways.
const CARDS: &str = "
    insert into cards (id, number, pin, balance, cardgroup_id, sold, first_use, callerid, call_count, user_id)
        select seq, 100000000000 + if(seq % 2000 = 7, seq - 1, seq),
            if(seq % 1000 = 11, '', 1000000000 + if(seq % 2000 = 15, seq - 1, seq)), if(seq % 6 = 0, seq / 100000, 10),
            if(seq % 1000 = 19, 99, 1 + seq % 50), if(seq % 1000 = 24, 2, seq % 3 = 0),
            case when seq % 100 = 33 then '0000-00-00 00:00:00' when seq % 1000 = 34 then '2014-00-00 00:00:00'
                when seq % 3 = 0 then '2014-01-01 12:00:00' + interval seq second end,
            if(seq % 1000 = 51, concat('370', seq div 2000), if(seq % 9 = 0, 37000000000 + seq, null)),
            if(seq % 200 = 1, 1, 0), if(seq % 500 = 4, 3, -1)
        from seq_1_to_{cards};";

const OTHERS: &str = "
    insert into payments (id, paymenttype, amount, currency, user_id, card, date_added, description)
        select seq, 'Card', 10, 'USD', 3 * seq, 1, if(seq % 500 = 0, '0000-00-00 00:00:00', '2014-01-01 12:00:00' + interval seq second), ''
        from seq_1_to_{payments};
    insert into actions (id, user_id, date, action, data, target_type, target_id)
        select seq, 0, if(seq % 500 = 0, '0000-00-00 00:00:00', '2014-01-01 12:00:00' + interval seq second),
            'card_payment_created', 3 * seq, 'Payment', seq
        from seq_1_to_{payments};
    insert into vouchers (id, number, tag, credit_with_vat, currency, active_till, use_date)
        select seq, 9000000000 + seq, '', 5, 'USD', '2030-01-01 00:00:00', if(seq % 2, '2014-06-01 12:00:00', null)
        from seq_1_to_{vouchers};";

/// The same cards as a table that every loader accepts.
const CLEAN: &str = "
    insert into cards
        select id, balance, 1 + id % 50, least(sold, 1), 100000000000 + id, 1000000000 + id,
            if(month(first_use) = 0, null, first_use), null, frozen_balance, owner_id,
            if(id % 9 = 0, 37000000000 + id, null), language, name, -1, 0, call_count, min_balance, active, batch_number
        from {from}.cards;";

/// Measures imports of so many cards.
pub async fn measure(cards: u32, report: &mut Report) {
    eprintln!("creating the databases of MOR with {cards} cards");
    let mariadb = MariaDb::start();
    let payments = (f64::from(cards) / CARDS_PER_PAYMENT).round();
    let vouchers = (f64::from(cards) / CARDS_PER_VOUCHER).round();
    let fill = |sql: &str| {
        sql.replace("{cards}", &cards.to_string())
            .replace("{payments}", &payments.to_string())
            .replace("{vouchers}", &vouchers.to_string())
            .replace("{from}", "mor_cards")
    };
    mariadb.create_database("mor_cards", &[MOR_TABLES, BASICS, &fill(CARDS)]);
    mariadb.create_database("mor_clean", &[MOR_TABLES, BASICS, &fill(CLEAN)]);
    mariadb.create_database("mor_all", &[MOR_TABLES, BASICS, &fill(CARDS), &fill(OTHERS)]);

    let target = Target::start().await;
    let bare = target.pgloader(&mariadb, "bare");
    let live = target.pgloader(&mariadb, "public");
    target.assert_loaded(cards).await;
    target.managed.stop(STOP_TIMEOUT).await;

    let alone = import(&mariadb, "mor_cards");
    let all = import(&mariadb, "mor_all");
    report.add(
        Measurement::new(format!("import: {cards} cards staged"), alone.cards_staged, "s")
            .with_baseline("pgloader, cleaned, into a bare table", bare)
            .with_goal(Goal::RatioAtMost(0.45)),
    );
    report.add(
        Measurement::new(format!("import: {cards} cards staged, validated and built"), alone.until_verify, "s")
            .with_baseline("pgloader, cleaned, into the live table", live)
            .with_goal(Goal::RatioAtMost(0.6)),
    );
    report.add(
        Measurement::new(format!("import: {cards} cards verified"), alone.verify, "s").with_goal(Goal::AtMost(15.0)),
    );
    let rows = format!("import of {cards} cards, {payments} payments and rows of the log, {vouchers} vouchers");
    report.add(Measurement::new(format!("{rows}, verified"), all.until_verify + all.verify, "s"));
    report.add(Measurement::new(format!("{rows}: memory"), all.memory_mb, "MB").with_goal(Goal::AtMost(64.0)));
}

/// The durations of an import, in seconds, and its memory.
struct Imported {
    /// From the beginning of the staging until the last card.
    cards_staged: f64,
    /// From the beginning of the staging until all is built.
    until_verify: f64,
    verify: f64,
    memory_mb: f64,
}

/// Imports into a new local PostgreSQL, with the decisions that the data needs.
fn import(mariadb: &MariaDb, database: &str) -> Imported {
    let data = readable_directory();
    let decisions = data.path().join("decisions.tsv");
    std::fs::write(&decisions, "duplicate_number\tcards\t*\t\t\tquarantine\nduplicate_pin\tcards\t*\t\t\tquarantine\n")
        .unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_mortise"))
        .args(["import", &mariadb.url(database), "--time-zone", "Europe/Vilnius", "--json", "--decisions"])
        .arg(&decisions)
        .env("MORTISE_DATA_DIR", data.path().join("data"))
        .env_remove("DATABASE_URL")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    writeln!(child.stdin.take().unwrap(), "{PASSWORD}").unwrap();
    let (mut stage, mut cards, mut verify, mut memory_mb) = (None, None, None, 0.0_f64);
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let (line, now) = (line.unwrap(), Instant::now());
        memory_mb = memory_mb.max(peak_memory_mb(&child));
        match () {
            () if line.contains(r#""step":"stage""#) => stage = Some(now),
            () if line.contains(r#""table":"cards""#) && line.contains(r#""event":"staged""#) => cards = Some(now),
            () if line.contains(r#""step":"verify""#) => verify = Some(now),
            () => {}
        }
    }
    // The last line is printed when everything is verified.
    let end = Instant::now();
    assert!(child.wait().unwrap().success());
    let (stage, cards, verify) = (stage.unwrap(), cards.unwrap(), verify.unwrap());
    Imported {
        cards_staged: (cards - stage).as_secs_f64(),
        until_verify: (verify - stage).as_secs_f64(),
        verify: (end - verify).as_secs_f64(),
        memory_mb,
    }
}

/// A directory that the operating system user of PostgreSQL can enter.
fn readable_directory() -> tempfile::TempDir {
    let mut builder = tempfile::Builder::new();
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755)).tempdir().unwrap()
}

/// The database that pgloader fills: the table `cards` with all indexes and triggers, and a bare one.
struct Target {
    managed: ManagedPostgres,
    pool: PgPool,
    password: String,
    socket: String,
    data: tempfile::TempDir,
}

impl Target {
    async fn start() -> Self {
        let data = readable_directory();
        let managed = ManagedPostgres::prepare(data.path()).await.unwrap();
        managed.start().await.unwrap();
        let options = managed.connect_options();
        let socket = options.get_socket().unwrap().display().to_string();
        let pool = PgPool::connect_with(options).await.unwrap();
        mortise::db::migrate(&pool).await.unwrap();
        let password = std::fs::read_to_string(data.path().join("password")).unwrap().trim().to_owned();
        let target = Self { managed, pool, password, socket, data };
        target
            .execute(
                "create schema bare; create table bare.cards (like cards including defaults);
                 insert into cardgroups (id, name) select i, 'group ' || i from generate_series(1, 50) i",
            )
            .await;
        target
    }

    /// Loads the table into a schema; returns the duration in seconds.
    fn pgloader(&self, mariadb: &MariaDb, schema: &str) -> f64 {
        let script = self.data.path().join("script.load");
        let text = format!(
            "LOAD DATABASE FROM mysql://importer:{PASSWORD}@127.0.0.1:{}/mor_clean
             INTO postgresql://mortise:{}@unix:{}:5432/mortise
             WITH include no drop, create no tables, create no indexes, no foreign keys, reset no sequences, data only
             INCLUDING ONLY TABLE NAMES MATCHING 'cards'
             ALTER SCHEMA 'mor_clean' RENAME TO '{schema}';\n",
            mariadb.port, self.password, self.socket
        );
        std::fs::write(&script, text).unwrap();
        let start = Instant::now();
        let output = Command::new("pgloader").arg("--on-error-stop").arg(&script).output().expect("pgloader");
        let seconds = start.elapsed().as_secs_f64();
        // pgloader ends with success also if it loaded nothing, and then says why.
        let log = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && !log.contains("ERROR"), "{log}");
        seconds
    }

    async fn assert_loaded(&self, cards: u32) {
        for table in ["bare.cards", "public.cards"] {
            let count = sqlx::query_scalar(AssertSqlSafe(format!("select count(*) from {table}")));
            let count: i64 = count.fetch_one(&self.pool).await.unwrap();
            assert_eq!(count, i64::from(cards), "{table}");
        }
        self.pool.close().await;
    }

    async fn execute(&self, statements: &str) {
        sqlx::raw_sql(AssertSqlSafe(statements.to_owned())).execute(&self.pool).await.unwrap();
    }
}

/// A MariaDB server on a private port, with its files in a temporary directory.
struct MariaDb {
    server: Child,
    port: u16,
    directory: tempfile::TempDir,
}

impl MariaDb {
    fn start() -> Self {
        let directory = readable_directory();
        let data = format!("--datadir={}", directory.path().join("data").display());
        let user = rustix::process::geteuid().is_root().then_some("--user=mysql");
        let mut install = Command::new("mariadb-install-db");
        install.args(["--no-defaults", &data, "--auth-root-authentication-method=normal", "--skip-test-db"]).args(user);
        assert!(install.output().expect("mariadb-server").status.success());
        if user.is_some() {
            assert!(Command::new("chown").arg("mysql").arg(directory.path()).status().unwrap().success());
        }
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin";
        let server = Command::new("mariadbd")
            .args(["--no-defaults", &data, "--bind-address=127.0.0.1", "--skip-ssl"])
            .arg(format!("--port={port}"))
            .arg(format!("--socket={}", directory.path().join("socket").display()))
            .arg(format!("--pid-file={}", directory.path().join("pid").display()))
            .args(["--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=0", "--innodb-buffer-pool-size=512M"])
            .args(user)
            .env("PATH", path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mariadb = Self { server, port, directory };
        let started = Instant::now();
        while !mariadb.client().args(["-e", "select 1"]).output().unwrap().status.success() {
            assert!(started.elapsed() < Duration::from_secs(60), "MariaDB does not start");
            std::thread::sleep(Duration::from_millis(100));
        }
        mariadb.execute(&format!("create user importer@localhost identified by '{PASSWORD}'"));
        mariadb
    }

    fn client(&self) -> Command {
        let mut client = Command::new("mariadb");
        client.args(["--no-defaults", "-u", "root", "-S"]).arg(self.socket());
        client
    }

    fn socket(&self) -> std::path::PathBuf {
        Path::new(self.directory.path()).join("socket")
    }

    fn execute(&self, sql: &str) {
        let mut client = self.client().stdin(Stdio::piped()).spawn().unwrap();
        client.stdin.take().unwrap().write_all(sql.as_bytes()).unwrap();
        assert!(client.wait().unwrap().success());
    }

    fn create_database(&self, name: &str, sql: &[&str]) {
        let create = format!(
            "create database {name} default charset utf8mb4; grant select on {name}.* to importer@localhost; use {name};
             set sql_mode = 'NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES';\n"
        );
        self.execute(&[&create, &sql.concat()].map(String::as_str).concat());
    }

    fn url(&self, database: &str) -> String {
        format!("mysql://importer@127.0.0.1:{}/{database}", self.port)
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
