//! No PIN, key, password or hash is told to anybody but in the replies that the contract gives them to: not in the log at its most
//! talkative, in either format, nor in refusals, metrics, audit rows or PostgreSQL's log. The soak looks for the same.

use std::fs::Permissions;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use axum::body::Bytes;
use axum::http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use crate::harness::program::Program;
use crate::harness::secrets::Secrets;
use crate::harness::{Server, hash, postgres, server_on_database};
use crate::reliability::soak::{ADMIN_KEY, PASSWORD, WRONG_PASSWORD, fixture_sql};

/// Of a card that is for sale, and of one that will be.
const PIN: &str = "913700006001";
const OTHER_PIN: &str = "913700006002";

/// A server whose log is kept, and all refusals that it gave.
struct Watched {
    program: Program,
    server: Server,
    refusals: String,
}

impl Watched {
    async fn new(log_format: &str) -> Self {
        let database = postgres::create_database(&fixture_sql()).await;
        let server = server_on_database(&database, &[]).await;
        let settings =
            [("log", "trace"), ("log_format", log_format), ("database_acquire_timeout_ms", "1000"), ("cache", "off")];
        let settings = [&settings[..], &[("metrics_listen", "127.0.0.1:0")]].concat();
        Self { program: Program::start_on_database(&database, &settings).await, server, refusals: String::new() }
    }

    async fn send(&mut self, method: Method, target: &str, content_type: &str, body: String) -> String {
        let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
        let request = Request::builder().method(method).uri(format!("http://{}{target}", self.program.address));
        let request = request.header("content-type", content_type).body(Full::from(body)).unwrap();
        let reply = client.request(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
        let reply = String::from_utf8(reply.into()).unwrap();
        if reply.contains("<error>") {
            self.refusals += &reply;
        }
        reply
    }

    async fn post(&mut self, operation: &str, form: &str) -> String {
        self.send(Method::POST, &format!("/api/{operation}"), "application/x-www-form-urlencoded", form.to_owned())
            .await
    }

    /// The same, signed.
    async fn signed(&mut self, operation: &str, form: &str, hashed: &str) -> String {
        self.post(operation, &format!("u=admin&{form}&hash={}", hash(hashed, ADMIN_KEY))).await
    }

    /// Clients that make mistakes.
    async fn be_asked_wrongly(&mut self) {
        let right = hash(&format!("{PIN}7000"), ADMIN_KEY);
        let asked = format!("u=admin&pin={PIN}&callerid=7000&hash={right}");
        for password in [PASSWORD, PASSWORD, WRONG_PASSWORD] {
            self.post("card_balance_get", &format!("u=admin&p={password}&number=1")).await;
        }
        self.post("cc_by_cli", &format!("{asked}0")).await;
        self.post("cc_by_cli", &format!("{asked}&p={WRONG_PASSWORD}")).await;
        for broken in [
            format!("{asked}&x=%00"),
            format!("{asked}&x=%f"),
            format!("{asked}&x=%ff"),
            asked.clone() + &"&x=".repeat(1000),
        ] {
            self.post("cc_by_cli", &broken).await;
        }
        for query in [
            format!("{asked}&amount=1"),
            format!("u=admin&p%69n={PIN}&p={PASSWORD}&%68ash={right}&callerid=1"),
            format!("u=admin&PIN={PIN}&Password={PASSWORD}&HASH={right}&callerid=1"),
            asked.clone(),
        ] {
            for path in ["cc_by_cli", "nosuch", "cc_by_cli/1/2"] {
                self.send(Method::GET, &format!("/billing/api/{path}?{query}"), "text/plain", String::new()).await;
                self.send(Method::PUT, &format!("/billing/api/{path}?{query}"), "text/plain", String::new()).await;
            }
        }
        let json = format!("{{\"u\": \"admin\", \"pin\": \"{PIN}\", \"hash\": \"{right}\", \"p\": \"{PASSWORD}\"");
        self.send(Method::POST, "/api/cc_by_cli", "application/json", json).await;
        self.send(Method::POST, "/api/cc_by_cli", "multipart/form-data; boundary=X", format!("--X\r\n{PIN}")).await;
        for pin in [PIN, OTHER_PIN] {
            self.signed("calling_card_update", &format!("card_id=1&pin={pin}&request_id=one"), "1").await;
        }
    }

    /// A database that refuses, waits, loses a connection, and isn't what it was.
    async fn trouble_in_the_database(&mut self) {
        let update = format!("card_id=101&pin=913800000001&batch_number=refused+{PIN}");
        self.server
            .execute("alter table cards add constraint no_batches check (batch_number not like 'refused%')")
            .await;
        let reply = self.signed("calling_card_update", &update, "101").await;
        assert!(reply.contains("Failed to make transaction"), "{reply}");
        let mut lock = self.server.pool.begin().await.unwrap();
        sqlx::query("select from cards where id = 101 for update").execute(&mut *lock).await.unwrap();
        let reply = self.signed("calling_card_update", &update, "101").await;
        assert!(reply.contains("temporarily unavailable"), "{reply}");
        lock.rollback().await.unwrap();
        self.server.rows("select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()").await;
        // Our own connections are found broken as well, each once.
        while sqlx::query("select").execute(&self.server.pool).await.is_err() {}
        self.once_available("calling_card_update", &update, "101").await;
        self.server.execute("alter table payments rename to gone").await;
        self.once_available("card_by_cli_update", &format!("pin={PIN}&callerid=7000"), &format!("{PIN}7000")).await;
        self.server.execute("alter table devices alter user_id drop not null; update devices set user_id = null").await;
        let move_caller_id = format!("pin={PIN}&callerid=555&p={PASSWORD}");
        self.once_available("card_by_cli_update", &move_caller_id, &format!("{PIN}555")).await;
    }

    /// Until none of the broken connections is met any more.
    async fn once_available(&mut self, operation: &str, params: &str, hashed: &str) {
        while self.signed(operation, params, hashed).await.contains("temporarily unavailable") {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_stay_out_of_logs_refusals_and_audit_rows() {
    for log_format in ["json", "human"] {
        let mut watched = Watched::new(log_format).await;
        watched.be_asked_wrongly().await;
        watched.trouble_in_the_database().await;
        let Watched { program, server, refusals } = watched;
        let metrics = program.metrics().await;
        let log = program.stop();
        for happened in
            ["Incorrect hash", "the database refused a change", "the database is in trouble", "a query failed"]
        {
            assert!(log.contains(happened), "{happened} is not in the log: {log}");
        }
        let secrets = Secrets::load(&server, &[PASSWORD, WRONG_PASSWORD]).await;
        let nothing = Vec::<String>::new();
        assert_eq!(secrets.find_in_text("the log", &log), nothing);
        assert_eq!(secrets.find_in_text("refusals", &refusals), nothing);
        assert!(metrics.contains("incorrect_hash"), "{metrics}");
        assert_eq!(secrets.find_in_text("metrics", &metrics), nothing);
        assert_eq!(secrets.find_in_text("PostgreSQL's log", &postgres::log().await), nothing);
        assert_eq!(secrets.find_in_audit_rows(&server).await, nothing);
        assert!(postgres::log().await.contains("no_batches"), "PostgreSQL's log isn't where it is looked for");
    }
}

/// Whoever looks for secrets must know them when they see them.
#[tokio::test]
async fn a_secret_would_be_found() {
    let server = server_on_database(&postgres::create_database(&fixture_sql()).await, &[]).await;
    server
        .execute(&format!("insert into actions (action, data2) values ('error', 'http://x/api/y?number={PIN}')"))
        .await;
    let secrets = Secrets::load(&server, &[PASSWORD]).await;
    assert_eq!(secrets.find_in_audit_rows(&server).await.len(), 1);
    let hash = hash("", ADMIN_KEY);
    for text in [PIN, ADMIN_KEY, PASSWORD, &hash] {
        assert_eq!(secrets.find_in_text("it", &format!("some {text}, and more")).len(), 1, "{text}");
    }
    assert_eq!(secrets.find_in_text("it", "some 913799999999, and more"), Vec::<String>::new());
}

/// The passwords of the local PostgreSQL's roles, and the key that is made at the first start: that one is shown once, on
/// standard output.
#[test]
fn a_first_start_logs_no_password_and_no_key() {
    let data = tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_mortise"))
        .args(["serve", "--listen", "127.0.0.1:0"])
        .current_dir("/")
        .env("MORTISE_DATA_DIR", data.path().join("mortise"))
        .env("MORTISE_LOG", "trace")
        .env_remove("DATABASE_URL")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut log, mut shown) = (String::new(), String::new());
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    while !log.contains("listening on") {
        assert!(lines.read_line(&mut log).unwrap() > 0, "the server ended: {log}");
    }
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM).unwrap();
    lines.read_to_string(&mut log).unwrap();
    child.stdout.take().unwrap().read_to_string(&mut shown).unwrap();
    assert!(child.wait().unwrap().success());
    let key = shown.trim().rsplit(' ').next().unwrap().to_owned();
    let files = ["password", "superuser_password"]
        .map(|file| std::fs::read_to_string(data.path().join("mortise").join(file)).unwrap());
    for secret in [files[0].trim(), files[1].trim(), &key] {
        assert!(secret.len() >= 20, "{secret:?} is no secret");
        assert!(!log.contains(secret), "{log}");
        let servers = std::fs::read_to_string(data.path().join("mortise/postgres.log")).unwrap();
        assert!(!servers.contains(secret), "{servers}");
    }
}
