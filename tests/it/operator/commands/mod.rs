//! The operator's commands: the program runs as a separate process on a test database.

mod audit;
mod backups;
mod card_reissue;
mod card_show;
mod card_void;
mod cards;
mod cards_export;
mod cards_import;
mod cards_settle;
mod cards_withhold;
mod changes;
mod console;
mod currencies;
mod doctor;
mod hashes;
mod invisible;
mod keys;
mod local;
mod mails;
mod reports;
mod resellers;
mod rights;
mod schema;
mod settings;
mod start;
mod tariffs;
mod tariffs_retail;
mod users;

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::process::installation_env;
use crate::harness::{FIXTURE_SQL, Reply, Server, hash, postgres, server_on_database};

/// Runs commands on a database, which a server also uses.
struct Operator {
    url: String,
    server: Server,
}

/// Exit code and output of a command.
#[derive(Debug)]
pub struct CommandOutput {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Operator {
    async fn new() -> Self {
        Self::with(&[]).await
    }

    /// With these settings for the server.
    async fn with(settings: &[(&str, &str)]) -> Self {
        let database = postgres::create_database(FIXTURE_SQL).await;
        let url = url(&database).await;
        Self { server: server_on_database(&database, settings).await, url }
    }

    fn run(&self, arguments: &[&str]) -> CommandOutput {
        self.run_with_input("", arguments)
    }

    /// Runs a command with this standard input.
    fn run_with_input(&self, input: &str, arguments: &[&str]) -> CommandOutput {
        let mut command = command(arguments);
        command.env("DATABASE_URL", &self.url);
        run_command(command, input)
    }

    /// Runs a command that must succeed without error output, except a question with its answer (`--yes`); returns its
    /// standard output.
    #[track_caller]
    fn run_ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let errors: Vec<&str> = output.stderr.lines().filter(|line| !line.ends_with("? yes")).collect();
        assert_eq!((output.code, errors), (0, Vec::new()), "{arguments:?}: {}", output.stdout);
        output.stdout
    }

    /// Runs a command with `--json` that must succeed; returns its output.
    #[track_caller]
    fn run_json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.run_ok(&[arguments, &["--json"]].concat())).unwrap()
    }

    /// Asserts that a command fails with this exit code and an error that contains `message`.
    #[track_caller]
    fn assert_error(&self, arguments: &[&str], code: i32, message: &str) {
        let output = self.run(arguments);
        assert!(output.code == code && output.stderr.contains(message), "{arguments:?}: {output:?}");
        assert_eq!(output.stdout, "");
    }

    /// Sends a sale from an empty group. If it is admitted, the reply is [`ADMITTED`].
    async fn attempt_sale(&self, user: &str, key: &str) -> Reply {
        self.server.post("card_from_group_sell", &format!("u={user}&id=11&hash={}", hash("11", key))).await
    }

    /// Asserts the last rows of the change log: what, target and changed fields. All are by commands of ann, and
    /// commands write no rows of `actions`.
    async fn assert_changes(&self, rows: &[&str]) {
        let query = format!(
            "select concat_ws(' ', what, target_id, target_name, cardgroup_id, before - 'last_update', '->', after - 'last_update')
             from (select * from change_log order by id desc limit {}) last order by id",
            rows.len()
        );
        assert_eq!(self.server.rows(&query).await, rows);
        let authors = "select distinct who, user_id, operator, request_id from change_log";
        self.server.assert_rows(authors, &["command|∅|ann|∅"]).await;
        let actions = "select action from actions
            where action not in ('error', 'card_sell_over_api', 'card_payment_created')";
        self.server.assert_rows(actions, &[]).await;
    }
}

/// An operator with a directory for files.
struct Files {
    operator: Operator,
    directory: TempDir,
}

impl Files {
    /// With what these statements insert.
    async fn new(sql: &str) -> Self {
        let operator = Operator::new().await;
        operator.server.execute(sql).await;
        Self { operator, directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file; returns its path.
    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

const ADMITTED: &str = "Free cards was not found";

pub async fn url(database: &str) -> String {
    format!("postgres://postgres@localhost/{database}?host={}", postgres::socket_dir().await.display())
}

/// The program, with a minimal environment.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mortise"));
    command.args(arguments).current_dir("/").env_clear().envs(installation_env()).env("USER", "ann");
    command
}

pub fn run_command(mut command: Command, input: &str) -> CommandOutput {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // Fails if the command has already exited without reading its input.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    CommandOutput { code: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
}
