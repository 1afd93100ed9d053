//! The soak test: several clients send random requests, generated from the contract, to running servers of both
//! dialects. The short form runs with the other tests; `scripts/soak` runs the long one.

mod audit;
mod encoding;
mod requests;
mod stats;
mod values;

use std::time::Duration;

use axum::body::Bytes;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue, Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use self::encoding::EncodedRequest;
use self::requests::RequestGenerator;
use self::stats::SoakStats;
pub use self::values::ADMIN_KEY;
use self::values::{BOUNDARIES, HOSTILE};
use crate::harness::program::Program;
use crate::harness::secrets::Secrets;
use crate::harness::{FIXTURE_SQL, Reply, Server, hash, postgres, server_on_database, with_timeout, xml};

/// The password of all users in `fixtures.sql`, and a wrong one.
pub const PASSWORD: &str = "PASSWORD-of-all-5e1d70";
pub const WRONG_PASSWORD: &str = "PASSWORD-guessed-c4097e";
/// Requests in the short form.
const REQUESTS_DEFAULT: u64 = 3_000;
/// After so many requests the test starts again with a new database, so that the requests match its data.
const ROUND_REQUESTS_MAX: u64 = 20_000;
const CLIENT_COUNT: u64 = 6;
/// The group of the first client. Only this client buys from it, and no random request names it.
const FIRST_OWN_GROUP: u64 = 900_000;
/// No random card id is as high: no other request changes or locks a card of a client's own group.
const FIRST_OWN_CARD: u64 = 1_000_000_000;
/// Each client sends a sale from its own group after so many random requests.
const OWN_SALE_INTERVAL: u64 = 8;
/// The log is searched completely, hence the level `trace`. The acquire timeout is long, so that no request is refused
/// on a slow machine. There is no limit of failed attempts, because many requests have a wrong hash. Sales are batched
/// on a machine with any number of processors.
const SETTINGS: [(&str, &str); 6] = [
    ("import_concurrency", "1000"),
    ("sale_concurrency", "2"),
    ("log", "trace"),
    ("database_acquire_timeout_ms", "60000"),
    ("failed_attempts_max", "0"),
    ("metrics_listen", "127.0.0.1:0"),
];

/// Fixtures with secrets that can be found in any text.
pub fn fixture_sql() -> String {
    format!("{FIXTURE_SQL}{}", include_str!("fixtures.sql"))
}

fn env_number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

#[tokio::test(flavor = "multi_thread")]
async fn random_requests_violate_no_rule() {
    let seed = env_number("SOAK_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    let requests = env_number("SOAK_REQUESTS").unwrap_or(REQUESTS_DEFAULT);
    let mut stats = SoakStats::default();
    for round in 0..requests.div_ceil(ROUND_REQUESTS_MAX) {
        let (seed, size) = (seed + round, ROUND_REQUESTS_MAX.min(requests - round * ROUND_REQUESTS_MAX));
        // These values repeat the round.
        println!("SOAK_SEED={seed} SOAK_REQUESTS={size}");
        let (documented, x7) = tokio::join!(
            Soak { dialect: "documented", log_format: "json", seed }.run(size - size / 2),
            Soak { dialect: "x7", log_format: "human", seed: !seed }.run(size / 2),
        );
        stats = stats + documented + x7;
        assert!(stats.violations.is_empty(), "{:#?}", stats.violations);
    }
    println!("{stats}");
    stats.assert_every_operation_succeeded();
}

/// A server in one dialect, and its clients.
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
        server
            .execute(&format!(
                "insert into cardgroups (id, name, owner_id, tax_id, tell_balance_in_currency, number_length, pin_length)
                 select {FIRST_OWN_GROUP} + client, 'client ' || client, owner_id, tax_id, 'USD', 12, 12
                 from cardgroups, generate_series(0, {CLIENT_COUNT} - 1) client where id = 11;
                 insert into cards (id, cardgroup_id, number, pin, balance)
                 select {FIRST_OWN_CARD} + client * 1000000 + i, {FIRST_OWN_GROUP} + client,
                     (900000000000 + client * 1000000 + i)::text,
                     (800000000000 + client * 1000000 + i)::text, 5
                 from generate_series(0, {CLIENT_COUNT} - 1) client, generate_series(1, {requests} / {OWN_SALE_INTERVAL} + 1) i"
            ))
            .await;
        let clients = (0..CLIENT_COUNT).map(|number| {
            let client_requests = requests / CLIENT_COUNT + u64::from(number < requests % CLIENT_COUNT);
            tokio::spawn(send_requests(
                format!("http://{}", program.address),
                RequestGenerator::new(self.seed.wrapping_mul(CLIENT_COUNT).wrapping_add(number)),
                client_requests,
                FIRST_OWN_GROUP + number,
            ))
        });
        let mut stats = SoakStats::default();
        for client in clients.collect::<Vec<_>>() {
            stats = stats + client.await.unwrap();
        }
        let metrics = program.metrics().await;
        let log = program.stop();
        stats.violations.extend(self.audit(&server, &log, &metrics, &stats).await);
        server.close().await;
        stats
    }

    /// Checks the database, and that the logs, metrics, error replies and audit rows have no errors and no secrets.
    async fn audit(&self, server: &Server, log: &str, metrics: &str, stats: &SoakStats) -> Vec<String> {
        let mut violations = audit::find_violations(server, self.dialect).await;
        // No request may cause a server error.
        let is_error = |line: &&str| ["panicked", "ERROR"].iter().any(|word| line.contains(word));
        if !log.contains("API : Incorrect hash") {
            violations.push("the log was not captured".to_owned());
        }
        violations.extend(log.lines().filter(is_error).map(|line| format!("logged: {line}")));
        // Such a text can be the PIN of a card and the name of an unknown user.
        let secrets = Secrets::load(server, &[PASSWORD, WRONG_PASSWORD]).await.without(HOSTILE).without(BOUNDARIES);
        violations.extend(secrets.find_in_text("the log", log));
        violations.extend(secrets.find_in_text("metrics", metrics));
        violations.extend(secrets.find_in_text("error replies", &stats.error_replies()));
        violations.extend(secrets.find_in_text("PostgreSQL's log", &postgres::log().await));
        violations.extend(secrets.find_in_audit_rows(server).await);
        violations.iter().map(|violation| format!("{}: {violation}", self.dialect)).collect()
    }
}

async fn send_requests(address: String, mut generator: RequestGenerator, count: u64, own_group: u64) -> SoakStats {
    let client = Client::builder(TokioExecutor::new()).pool_idle_timeout(Duration::from_secs(600)).build_http();
    let mut stats = SoakStats::default();
    let mut own_sales = 0;
    for index in 0..count {
        if index % OWN_SALE_INTERVAL == 0 {
            own_sales += 1;
            let violation = own_sale_violation(&client, &address, own_group, own_sales).await;
            stats.violations.extend(violation);
        }
        let request = generator.next();
        let reply = send(&client, &address, &request).await;
        stats.record(&request, &reply);
    }
    stats
}

/// Sells the next card of a client's own group. Returns what is wrong with the reply. If a sale is made but reported as
/// refused, other clients' sales cannot hide it: the card is missing in the order of the group.
async fn own_sale_violation(client: &HttpClient, address: &str, own_group: u64, sale: u64) -> Option<String> {
    let form = format!("u=admin&id={own_group}&quantity=1&hash={}", hash(&format!("{own_group}1"), ADMIN_KEY));
    let request = EncodedRequest {
        operation: "card_from_group_sell",
        method: Method::POST,
        target: "/billing/api/card_from_group_sell".to_owned(),
        headers: HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"))]),
        body: form.into(),
    };
    let reply = send(client, address, &request).await;
    let number = format!("{}", 900_000_000_000 + (own_group - FIRST_OWN_GROUP) * 1_000_000 + sale);
    match reply {
        Ok(reply) if reply.element_texts("number") == [number.as_str()] => None,
        other => Some(format!("sale {sale} from the group {own_group} is not the card {number}: {other:?}")),
    }
}

type HttpClient = Client<HttpConnector, Full<Bytes>>;

/// Sends a request. `Err`: the reply is not valid HTTP, is incomplete, or is not UTF-8.
async fn send(client: &HttpClient, address: &str, request: &EncodedRequest) -> Result<Reply, String> {
    let mut http_request = Request::builder().method(&request.method).uri(format!("{address}{}", request.target));
    http_request.headers_mut().unwrap().extend(request.headers.clone());
    let http_request = http_request.body(Full::from(request.body.clone())).unwrap();
    let reply = with_timeout("a reply", client.request(http_request)).await;
    let (parts, body) = reply.map_err(|error| format!("{error:?}"))?.into_parts();
    let body =
        with_timeout("the end of a reply", body.collect()).await.map_err(|error| format!("{error:?}"))?.to_bytes();
    Reply::new(parts.status, parts.headers, body)
}

/// Returns the rule for all replies that this reply violates.
fn reply_violation(request: &EncodedRequest, reply: &Reply) -> Option<String> {
    const EXPECTED_STATUSES: [u16; 7] = [200, 400, 404, 405, 409, 413, 422];
    if !EXPECTED_STATUSES.contains(&reply.status.as_u16()) {
        return Some(format!("status {}", reply.status));
    }
    if !reply.headers.contains_key("x-request-id") {
        return Some("no X-Request-Id".to_owned());
    }
    if request.method == Method::HEAD {
        return (!reply.body.is_empty()).then(|| "a body after HEAD".to_owned());
    }
    xml::parse_leaves(&reply.body).err()
}
