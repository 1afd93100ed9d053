//! `mortise import` and `mortise reconcile`: the program reads a database of MOR from a real MariaDB.

mod connection;
mod findings;
mod generated;
mod generator;
mod interruptions;
mod kinds;
mod options;
mod replace;
mod replay;
mod rows;
mod secrets;
mod states;
mod stock;
mod testbed;
mod used_databases;

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Stdio};

use serde_json::Value;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};

use crate::harness::mariadb::{self, Mor};
use crate::harness::{Server, postgres, server_without_jobs, with_timeout};
use crate::operator::commands::{CommandOutput, command, run_command, url};

/// MOR's tables.
const X7_SCHEMA: &str = include_str!("mor_x7.sql");

/// An admin, a currency, a card group of an owner, and five free cards with the lengths of the group.
const BASICS: &str = "
    insert into users (id, username, password, usertype, first_name, last_name) values
        (0, 'admin', '6c7ca345f63f835cb353ff15bd6c5e052ec08e7a', 'admin', '', ''),
        (3, 'shop', '6c7ca345f63f835cb353ff15bd6c5e052ec08e7a', 'reseller', 'Żaneta', 'O''Brien\\\\Ltd');
    insert into currencies (id, name, full_name, exchange_rate, last_update) values
        (1, 'USD', 'United States dollar', 1, '2014-05-01 10:00:00'), (2, 'EUR', 'Euro', 0.9, '2014-05-01 10:00:00');
    insert into cardgroups (id, name, description, price, number_length, pin_length, created_at, valid_from, valid_till,
            owner_id, tariff_id, lcr_id)
        values (7, 'Ten', '', 10, 10, 4, '2014-01-01 12:00:00', '2014-01-01 00:00:00', '2030-01-01 00:00:00', 0, 1, 1);
    insert into cards (id, number, pin, balance, cardgroup_id) values
        (101, '1000000101', '0101', 10, 7), (102, '1000000102', '0102', 10, 7), (103, '1000000103', '0103', 10, 7),
        (104, '1000000104', '0104', 10, 7), (105, '1000000105', '0105', 10, 7);";

/// A database of MOR, and an empty one of Mortise.
struct Import {
    mor: Mor,
    database: String,
    url: String,
    files: tempfile::TempDir,
}

impl Import {
    /// With MOR's tables, the [`BASICS`], and what `sql` inserts.
    async fn new(sql: &str) -> Self {
        Self::with(&[X7_SCHEMA, BASICS, sql].concat()).await
    }

    /// With what `sql` creates.
    async fn with(sql: &str) -> Self {
        Self::of(Mor::new(sql).await).await
    }

    async fn of(mor: Mor) -> Self {
        let database = postgres::create_database("").await;
        let url = url(&database).await;
        Self { mor, database, url, files: tempfile::tempdir().unwrap() }
    }

    /// Runs a command on the database of Mortise, with the password as its standard input.
    fn run(&self, arguments: &[&str]) -> CommandOutput {
        let mut command = command(arguments);
        command.env("DATABASE_URL", &self.url);
        run_command(command, &format!("{}\n", mariadb::PASSWORD))
    }

    /// Imports, with these options besides the time zone.
    fn import(&self, options: &[&str]) -> CommandOutput {
        let zone = if options.contains(&"--time-zone") { &[][..] } else { &["--time-zone", "Europe/Vilnius"] };
        self.run(&[&["import", &self.mor.url()], zone, options].concat())
    }

    /// Starts an import and returns when it has begun a step.
    fn start(&self, step: &str, options: &[&str]) -> (Child, impl BufRead + use<>) {
        let mut command = command(&[&["import", &self.mor.url(), "--time-zone", "UTC", "--json"], options].concat());
        command.env("DATABASE_URL", &self.url).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(format!("{}\n", mariadb::PASSWORD).as_bytes()).unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains(&format!("\"step\":\"{step}\"")) {
            line.clear();
            assert_ne!(output.read_line(&mut line).unwrap(), 0, "the import ended before the step {step}");
        }
        (child, output)
    }

    #[track_caller]
    fn import_ok(&self, options: &[&str]) -> CommandOutput {
        let output = self.import(options);
        assert_eq!(output.code, 0, "{output:?}");
        output
    }

    /// Runs a dry run; returns the lines of its report.
    #[track_caller]
    fn findings(&self) -> Vec<String> {
        let path = self.file("report.tsv");
        let output = self.import(&["--dry-run", "--report", path.to_str().unwrap()]);
        assert!(output.stdout.contains("Nothing was imported"), "{output:?}");
        let report = std::fs::read_to_string(path).unwrap();
        report.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// A connection that an import does not exclude: it is not one of the program.
    async fn connect(&self) -> PgConnection {
        postgres::connect_options(&self.database).await.disable_statement_logging().connect().await.unwrap()
    }

    /// Executes statements in the database of Mortise, also while an import runs.
    async fn execute(&self, sql: &str) {
        let mut connection = self.connect().await;
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }

    /// Waits until a query returns true, also while an import runs.
    async fn wait_for(&self, query: &str) {
        let mut connection = self.connect().await;
        let repeat = async {
            while !sqlx::query_scalar::<_, bool>(AssertSqlSafe(query.to_owned()))
                .fetch_one(&mut connection)
                .await
                .unwrap()
            {
                tokio::task::yield_now().await;
            }
        };
        with_timeout(query, repeat).await;
        connection.close().await.unwrap();
    }

    /// A server on the imported database, without background tasks: it can be closed before the next command.
    async fn server(&self) -> Server {
        server_without_jobs(&self.database, &[]).await
    }

    /// The result of an import with `--json`: the last line.
    #[track_caller]
    fn result(output: &CommandOutput) -> Value {
        serde_json::from_str::<Value>(output.stdout.lines().last().unwrap()).unwrap()["result"].clone()
    }
}
