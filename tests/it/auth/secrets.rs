//! PINs, keys, passwords and hashes appear only in the replies that the contract defines: neither in the log (both
//! formats, at the level `trace`), nor in error replies, metrics, audit rows or PostgreSQL's log. The soak test checks
//! the same.

use std::fs::Permissions;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use axum::body::Bytes;
use axum::http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use mortise::back_office::lookup::CardKey;
use mortise::store::card::LockedCard;

use crate::harness::program::Program;
use crate::harness::secrets::Secrets;
use crate::harness::{Server, hash, postgres, server_on_database};
use crate::reliability::soak::{ADMIN_KEY, PASSWORD, WRONG_PASSWORD, fixture_sql};

/// The PIN of a card that is for sale.
const PIN: &str = "913700006001";
/// The PIN of a card that is not for sale yet.
const OTHER_PIN: &str = "913700006002";

/// A server process, and all error replies that it has sent.
struct LoggedServer {
    program: Program,
    server: Server,
    error_replies: String,
}

impl LoggedServer {
    async fn new(log_format: &str) -> Self {
        let database = postgres::create_database(&fixture_sql()).await;
        let server = server_on_database(&database, &[]).await;
        let settings =
            [("log", "trace"), ("log_format", log_format), ("database_acquire_timeout_ms", "1000"), ("cache", "off")];
        let settings = [&settings[..], &[("metrics_listen", "127.0.0.1:0")]].concat();
        Self { program: Program::start_on_database(&database, &settings).await, server, error_replies: String::new() }
    }

    async fn send(&mut self, method: Method, target: &str, content_type: &str, body: String) -> String {
        let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
        let request = Request::builder().method(method).uri(format!("http://{}{target}", self.program.address));
        let request = request.header("content-type", content_type).body(Full::from(body)).unwrap();
        let reply = client.request(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
        let reply = String::from_utf8(reply.into()).unwrap();
        if reply.contains("<error>") {
            self.error_replies += &reply;
        }
        reply
    }

    async fn post(&mut self, operation: &str, form: &str) -> String {
        self.send(Method::POST, &format!("/api/{operation}"), "application/x-www-form-urlencoded", form.to_owned())
            .await
    }

    /// Sends a POST with the admin's hash.
    async fn post_signed(&mut self, operation: &str, form: &str, hashed: &str) -> String {
        self.post(operation, &format!("u=admin&{form}&hash={}", hash(hashed, ADMIN_KEY))).await
    }

    /// Sends wrong, malformed and unknown requests.
    async fn send_bad_requests(&mut self) {
        let right = hash(&format!("{PIN}7000"), ADMIN_KEY);
        let form = format!("u=admin&pin={PIN}&callerid=7000&hash={right}");
        for password in [PASSWORD, PASSWORD, WRONG_PASSWORD] {
            self.post("card_balance_get", &format!("u=admin&p={password}&number=1")).await;
        }
        self.post("cc_by_cli", &format!("{form}0")).await;
        self.post("cc_by_cli", &format!("{form}&p={WRONG_PASSWORD}")).await;
        for malformed in [
            format!("{form}&x=%00"),
            format!("{form}&x=%f"),
            format!("{form}&x=%ff"),
            form.clone() + &"&x=".repeat(1000),
        ] {
            self.post("cc_by_cli", &malformed).await;
        }
        for query in [
            format!("{form}&amount=1"),
            format!("u=admin&p%69n={PIN}&p={PASSWORD}&%68ash={right}&callerid=1"),
            format!("u=admin&PIN={PIN}&Password={PASSWORD}&HASH={right}&callerid=1"),
            form.clone(),
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
            self.post_signed("calling_card_update", &format!("card_id=1&pin={pin}&request_id=one"), "1").await;
        }
    }

    /// Causes a constraint violation, a lock timeout, lost connections, and queries that do not fit the schema.
    async fn cause_database_errors(&mut self) {
        let update = format!("card_id=101&pin=913800000001&batch_number=refused+{PIN}");
        self.server
            .execute("alter table cards add constraint no_batches check (batch_number not like 'refused%')")
            .await;
        let reply = self.post_signed("calling_card_update", &update, "101").await;
        assert!(reply.contains("Failed to make transaction"), "{reply}");
        let mut lock = self.server.pool.begin().await.unwrap();
        sqlx::query("select from cards where id = 101 for update").execute(&mut *lock).await.unwrap();
        let reply = self.post_signed("calling_card_update", &update, "101").await;
        assert!(reply.contains("temporarily unavailable"), "{reply}");
        lock.rollback().await.unwrap();
        self.server
            .rows(
                "select pg_terminate_backend(pid) from pg_stat_activity
                 where datname = current_database() and pid <> pg_backend_pid()",
            )
            .await;
        // The statement has also ended the test's own connections: each of them fails once.
        while sqlx::query("select").execute(&self.server.pool).await.is_err() {}
        self.retry_until_available("calling_card_update", &update, "101").await;
        self.server.execute("alter table payments rename to payments_renamed").await;
        self.retry_until_available("card_by_cli_update", &format!("pin={PIN}&callerid=7000"), &format!("{PIN}7000"))
            .await;
        self.server.execute("alter table devices alter user_id drop not null; update devices set user_id = null").await;
        let move_caller_id = format!("pin={PIN}&callerid=555&p={PASSWORD}");
        self.retry_until_available("card_by_cli_update", &move_caller_id, &format!("{PIN}555")).await;
    }

    /// Repeats a request until the server has replaced its lost connections.
    async fn retry_until_available(&mut self, operation: &str, params: &str, hashed: &str) {
        while self.post_signed(operation, params, hashed).await.contains("temporarily unavailable") {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_error_replies_and_audit_rows_have_no_secrets() {
    for log_format in ["json", "human"] {
        let mut logged = LoggedServer::new(log_format).await;
        logged.send_bad_requests().await;
        logged.cause_database_errors().await;
        let LoggedServer { program, server, error_replies } = logged;
        let metrics = program.metrics().await;
        let log = program.stop();
        for event in ["Incorrect hash", "database rejected a statement", "database error", "query failed"] {
            assert!(log.contains(event), "{event} is not in the log: {log}");
        }
        let secrets = Secrets::load(&server, &[PASSWORD, WRONG_PASSWORD]).await;
        let none = Vec::<String>::new();
        assert_eq!(secrets.find_in_text("the log", &log), none);
        assert_eq!(secrets.find_in_text("error replies", &error_replies), none);
        assert!(metrics.contains("incorrect_hash"), "{metrics}");
        assert_eq!(secrets.find_in_text("metrics", &metrics), none);
        assert_eq!(secrets.find_in_text("PostgreSQL's log", &postgres::log().await), none);
        assert_eq!(secrets.find_in_audit_rows(&server).await, none);
        assert!(postgres::log().await.contains("no_batches"), "PostgreSQL's log is not in the expected file");
    }
}

/// The search used above does find secrets.
#[tokio::test]
async fn search_finds_secrets() {
    let server = server_on_database(&postgres::create_database(&fixture_sql()).await, &[]).await;
    server
        .execute(&format!("insert into actions (action, data2) values ('error', 'http://x/api/y?number={PIN}')"))
        .await;
    let secrets = Secrets::load(&server, &[PASSWORD]).await;
    assert_eq!(secrets.find_in_audit_rows(&server).await.len(), 1);
    let hash = hash("", ADMIN_KEY);
    for text in [PIN, ADMIN_KEY, PASSWORD, &hash] {
        assert_eq!(secrets.find_in_text("the text", &format!("some {text}, and more")).len(), 1, "{text}");
    }
    assert_eq!(secrets.find_in_text("the text", "some 913799999999, and more"), Vec::<String>::new());
}

/// Covers the passwords of the local PostgreSQL's roles and the generated key, which is printed once, to standard
/// output.
#[test]
fn first_start_logs_no_password_and_no_key() {
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
    let (mut log, mut output) = (String::new(), String::new());
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    while !log.contains("listening on") {
        assert!(lines.read_line(&mut log).unwrap() > 0, "the server exited: {log}");
    }
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM).unwrap();
    lines.read_to_string(&mut log).unwrap();
    child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
    assert!(child.wait().unwrap().success());
    let key = output.trim().rsplit(' ').next().unwrap().to_owned();
    let files = ["password", "superuser_password"]
        .map(|file| std::fs::read_to_string(data.path().join("mortise").join(file)).unwrap());
    for secret in [files[0].trim(), files[1].trim(), &key] {
        assert!(secret.len() >= 20, "{secret:?} is too short for a secret");
        assert!(!log.contains(secret), "{log}");
        let postgres_log = std::fs::read_to_string(data.path().join("mortise/postgres.log")).unwrap();
        assert!(!postgres_log.contains(secret), "{postgres_log}");
    }
}

/// A type with a PIN cannot print it by its `Debug` output.
#[test]
fn debug_output_has_no_pin() {
    let found = LockedCard {
        id: 101,
        cardgroup_id: 6,
        owner_id: 0,
        sold: false,
        callerid: None,
        pin: Some(PIN.into()),
        balance: 5.into(),
        group_visible: true,
        validation_error: None,
        usable: true,
        group_rate: 1.into(),
        tax_rate: 0.into(),
    };
    let outputs = [format!("{found:?}"), format!("{:#?}", CardKey::Pin(PIN.into()))];
    assert!(outputs.iter().all(|output| !output.contains(PIN) && output.contains("[REDACTED]")), "{outputs:?}");
}
