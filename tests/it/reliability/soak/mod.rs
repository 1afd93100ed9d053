//! A soak: random requests made from the contract against running servers of both dialects, several at a time. The short form is
//! a test like any other; `scripts/soak` runs the long one.

mod audit;
mod figures;
mod pools;
mod requests;
mod sending;

use std::time::Duration;

use axum::body::Bytes;
use axum::http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use self::figures::SoakStats;
pub use self::pools::ADMIN_KEY;
use self::requests::RequestGenerator;
use self::sending::EncodedRequest;
use crate::harness::program::Program;
use crate::harness::secrets::Secrets;
use crate::harness::{FIXTURE_SQL, Reply, Server, postgres, server_on_database, xml};

/// What the world's users say, and what one says who guesses.
pub const PASSWORD: &str = "PASSWORD-of-all-5e1d70";
pub const WRONG_PASSWORD: &str = "PASSWORD-guessed-c4097e";
/// Requests in the short form.
const REQUESTS_DEFAULT: u64 = 3_000;
/// Then the world is made anew, so that it stays one that requests are made for.
const ROUND_REQUESTS_MAX: u64 = 20_000;
const CLIENT_COUNT: u64 = 6;
/// All that is logged is looked at. On a loaded machine nobody is to be refused for want of patience.
/// Guesses are most of what it sends.
const SETTINGS: [(&str, &str); 4] = [
    ("log", "trace"),
    ("database_acquire_timeout_ms", "60000"),
    ("failed_attempts_max", "0"),
    ("metrics_listen", "127.0.0.1:0"),
];

/// A world whose secrets can be recognised.
pub fn fixture_sql() -> String {
    format!("{FIXTURE_SQL}{}", include_str!("world.sql"))
}

fn env_number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_sent_is_answered_and_nothing_is_lost() {
    let seed = env_number("SOAK_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    let requests = env_number("SOAK_REQUESTS").unwrap_or(REQUESTS_DEFAULT);
    let mut figures = SoakStats::default();
    for round in 0..requests.div_ceil(ROUND_REQUESTS_MAX) {
        let (seed, size) = (seed + round, ROUND_REQUESTS_MAX.min(requests - round * ROUND_REQUESTS_MAX));
        // With these it can be seen again.
        println!("SOAK_SEED={seed} SOAK_REQUESTS={size}");
        let (documented, x7) = tokio::join!(
            Soak { dialect: "documented", log_format: "json", seed }.run(size - size / 2),
            Soak { dialect: "x7", log_format: "human", seed: !seed }.run(size / 2),
        );
        figures = figures + documented + x7;
        assert!(figures.violations.is_empty(), "{:#?}", figures.violations);
    }
    println!("{figures}");
    figures.assert_every_operation_succeeded();
}

/// One server in one dialect, and those who ask it.
struct Soak {
    dialect: &'static str,
    log_format: &'static str,
    seed: u64,
}

impl Soak {
    async fn run(self, requests: u64) -> SoakStats {
        let database = postgres::create_database(&fixture_sql()).await;
        let server = server_on_database(&database, &[]).await;
        let settings = [("dialect", self.dialect), ("log_format", self.log_format)];
        let program = Program::start_on_database(&database, &[&SETTINGS[..], &settings].concat()).await;
        let clients = (0..CLIENT_COUNT).map(|number| {
            let of_this = requests / CLIENT_COUNT + u64::from(number < requests % CLIENT_COUNT);
            tokio::spawn(send_requests(
                format!("http://{}", program.address),
                RequestGenerator::new(self.seed.wrapping_mul(CLIENT_COUNT).wrapping_add(number)),
                of_this,
            ))
        });
        let mut figures = SoakStats::default();
        for client in clients.collect::<Vec<_>>() {
            figures = figures + client.await.unwrap();
        }
        let metrics = program.metrics().await;
        let log = program.stop();
        figures.violations.extend(self.audit(&server, &log, &metrics, &figures).await);
        server.close().await;
        figures
    }

    /// What must be true when all is done.
    async fn audit(&self, server: &Server, log: &str, metrics: &str, figures: &SoakStats) -> Vec<String> {
        let mut wrong = audit::find_violations(server, self.dialect).await;
        // Nothing here is out of order, so nothing may look like it.
        let alarming =
            |line: &&str| ["panicked", "made the server panic", "ERROR"].iter().any(|word| line.contains(word));
        if !log.contains("API : Incorrect hash") {
            wrong.push("the log wasn't caught".to_owned());
        }
        wrong.extend(log.lines().filter(alarming).map(|line| format!("logged: {line}")));
        let secrets = Secrets::load(server, &[PASSWORD, WRONG_PASSWORD]).await;
        wrong.extend(secrets.find_in_text("the log", log));
        wrong.extend(secrets.find_in_text("metrics", metrics));
        wrong.extend(secrets.find_in_text("error replies", &figures.error_replies()));
        wrong.extend(secrets.find_in_text("PostgreSQL's log", &postgres::log().await));
        wrong.extend(secrets.find_in_audit_rows(server).await);
        wrong.iter().map(|wrong| format!("{}: {wrong}", self.dialect)).collect()
    }
}

async fn send_requests(address: String, mut requests: RequestGenerator, count: u64) -> SoakStats {
    let client = Client::builder(TokioExecutor::new()).pool_idle_timeout(Duration::from_secs(600)).build_http();
    let mut figures = SoakStats::default();
    for _ in 0..count {
        let sent = requests.next();
        let reply = send(&client, &address, &sent).await;
        figures.record(&sent, &reply);
    }
    figures
}

type HttpClient = Client<HttpConnector, Full<Bytes>>;

/// `None`: something that isn't HTTP, or an end before its end.
async fn send(client: &HttpClient, address: &str, sent: &EncodedRequest) -> Result<Reply, String> {
    let mut request = Request::builder().method(&sent.method).uri(format!("{address}{}", sent.target));
    request.headers_mut().unwrap().extend(sent.headers.clone());
    let request = request.body(Full::from(sent.body.clone())).unwrap();
    let (parts, body) = client.request(request).await.map_err(|error| format!("{error:?}"))?.into_parts();
    let body = body.collect().await.map_err(|error| format!("{error:?}"))?.to_bytes();
    let body = String::from_utf8(body.into()).map_err(|error| error.to_string())?;
    Ok(Reply { status: parts.status, headers: parts.headers, body })
}

/// What every reply must be, whatever was asked.
fn reply_violation(sent: &EncodedRequest, reply: &Reply) -> Option<String> {
    const EXPECTED_STATUSES: [u16; 7] = [200, 400, 404, 405, 409, 413, 422];
    if !EXPECTED_STATUSES.contains(&reply.status.as_u16()) {
        return Some(format!("status {}", reply.status));
    }
    if !reply.headers.contains_key("x-request-id") {
        return Some("no X-Request-Id".to_owned());
    }
    if sent.method == Method::HEAD {
        return (!reply.body.is_empty()).then(|| "a body after HEAD".to_owned());
    }
    xml::parse_leaves(&reply.body).err()
}
