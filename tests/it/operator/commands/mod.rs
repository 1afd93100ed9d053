//! The operator's commands: the program itself, on a database of the test.

mod audit;
mod cards;
mod currencies;
mod doctor;
mod hashes;
mod keys;
mod local;
mod rights;
mod settings;
mod start;
mod users;

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::harness::{FIXTURE_SQL, Reply, Server, hash, postgres, server_on_database};

/// Runs commands on a database, beside a server on it.
struct Operator {
    url: String,
    server: Server,
}

/// What a command said.
#[derive(Debug)]
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Operator {
    async fn new() -> Self {
        Self::with(&[]).await
    }

    /// With these settings of the server.
    async fn with(settings: &[(&str, &str)]) -> Self {
        let database = postgres::create_database(FIXTURE_SQL).await;
        let url = url(&database).await;
        Self { server: server_on_database(&database, settings).await, url }
    }

    fn run(&self, arguments: &[&str]) -> Said {
        self.send("", arguments)
    }

    /// With this on standard input.
    fn send(&self, input: &str, arguments: &[&str]) -> Said {
        let mut command = command(arguments);
        command.env("DATABASE_URL", &self.url);
        said(command, input)
    }

    /// What it must say when all goes well.
    #[track_caller]
    fn says(&self, arguments: &[&str]) -> String {
        let said = self.run(arguments);
        assert_eq!((said.code, said.err.as_str()), (0, ""), "{arguments:?}: {}", said.out);
        said.out
    }

    /// The same for scripts.
    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.says(&[arguments, &["--json"]].concat())).unwrap()
    }

    /// How it must be refused.
    #[track_caller]
    fn refuses(&self, arguments: &[&str], code: i32, words: &str) {
        let said = self.run(arguments);
        assert!(said.code == code && said.err.contains(words), "{arguments:?}: {said:?}");
        assert_eq!(said.out, "");
    }

    /// A sale that is admitted finds no cards in this group.
    async fn ask(&self, user: &str, key: &str) -> Reply {
        self.server.post("card_from_group_sell", &format!("u={user}&id=11&hash={}", hash("11", key))).await
    }

    /// The actions of the last audit rows.
    async fn noted(&self, rows: &[&str]) {
        let query = format!(
            "select * from (select id, user_id, action, target_type, target_id, data, data2 from actions order by id desc limit {}) last order by id",
            rows.len()
        );
        let query = format!("select user_id, action, target_type, target_id, data, data2 from ({query}) ordered");
        assert_eq!(self.server.rows(&query).await, rows);
    }
}

const ADMITTED: &str = "Free cards was not found";

async fn url(database: &str) -> String {
    format!("postgres://postgres@localhost/{database}?host={}", postgres::socket_dir().await.display())
}

/// The program, with nothing of the tests' own surroundings.
fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mortise"));
    command.args(arguments).current_dir("/").env_clear().env("PATH", std::env::var("PATH").unwrap()).env("USER", "ann");
    command
}

fn said(mut command: Command, input: &str) -> Said {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A command that doesn't read it may have ended before.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}
