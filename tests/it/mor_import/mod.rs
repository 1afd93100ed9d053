//! `mortise import` and `mortise reconcile`: the program reads a database of MOR from a real MariaDB.

mod connection;
mod findings;
mod interruptions;
mod replay;
mod rows;
mod testbed;

use std::path::PathBuf;

use serde_json::Value;

use crate::harness::mariadb::{self, Mor};
use crate::harness::{Server, postgres, server_without_jobs};
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
        let database = postgres::create_database("").await;
        let url = url(&database).await;
        Self { mor: Mor::new(sql).await, database, url, files: tempfile::tempdir().unwrap() }
    }

    /// Runs a command on the database of Mortise, with the password as its standard input.
    fn run(&self, arguments: &[&str]) -> CommandOutput {
        let mut command = command(arguments);
        command.env("DATABASE_URL", &self.url);
        run_command(command, &format!("{}\n", mariadb::PASSWORD))
    }

    /// Imports, with these options besides the time zone.
    fn import(&self, options: &[&str]) -> CommandOutput {
        self.run(&[&["import", &self.mor.url(), "--time-zone", "Europe/Vilnius"], options].concat())
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
