//! The measurements of tariffs and rates.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::BenchSize;
use crate::fixtures::{BenchEnvironment, ServerProcess};
use crate::load::{self, LoadResult, StopCondition, request_hash};
use crate::pgbench::{Script, find_statement};
use crate::report::{Goal, Measurement, Report};

const CLIENT_COUNT: usize = 16;
/// The user whose tariff has all rates.
const USER_ID: u32 = 501;
const TARIFF_ID: u32 = 501;
/// The first prefix; the others follow.
const FIRST_PREFIX: u32 = 1_000_000;
/// With which the large tariff is compared.
const FEW_RATES: u32 = 1_000;
const ROUNDS: usize = 8;
const RUN_DURATION: Duration = Duration::from_secs(1);

pub async fn measure_rates(environment: &BenchEnvironment, size: BenchSize, report: &mut Report) {
    environment
        .execute(&format!(
            "insert into conflines (name, value) values ('Devices_Check_Rate', '1');
             insert into tariffs (id, name, purpose, currency) values ({TARIFF_ID}, 'rates', 'user_wholesale', 'USD');
             insert into users (id, username, tariff_id) values ({USER_ID}, 'rates', {TARIFF_ID});
             insert into directions (name, code) select 'Direction ' || i, 'D' || i from generate_series(0, 299) i;
             insert into destinationgroups (name) select 'Group ' || i from generate_series(1, 300) i"
        ))
        .await;
    add_rates(environment, 1, FEW_RATES).await;
    let server = environment.start_server(&[]);
    let few = run_requests(&server, FEW_RATES, ROUNDS).await;
    drop(server);
    add_rates(environment, FEW_RATES + 1, size.rates).await;
    measure_lookups(environment, size, &few, report).await;
    measure_lists(environment, size, report).await;
}

/// Adds destinations with a rate each.
async fn add_rates(environment: &BenchEnvironment, first: u32, last: u32) {
    environment
        .execute(&format!(
            "insert into destinations (id, prefix, direction_code, name, destinationgroup_id)
             select i, ({FIRST_PREFIX} + i)::text, 'D' || i % 300, 'Destination ' || i, 1 + i % 300
             from generate_series({first}, {last}) i;
             insert into rates (id, tariff_id, destination_id, prefix)
             select i, {TARIFF_ID}, i, ({FIRST_PREFIX} + i)::text from generate_series({first}, {last}) i;
             insert into ratedetails (rate_id, rate, increment_s, min_time)
             select i, 0.01 + i / 1e7, 60, 30 from generate_series({first}, {last}) i;
             select setval('destinations_id_seq', {last}), setval('rates_id_seq', {last})"
        ))
        .await;
    for table in ["destinations", "rates", "ratedetails", "destinationgroups", "directions", "users", "tariffs"] {
        environment.execute(&format!("vacuum analyze {table}")).await;
    }
}

/// A request for a number of one of `rates` prefixes.
fn lookup_request(number: usize, rates: u32) -> Vec<u8> {
    let prefix = FIRST_PREFIX + 1 + u32::try_from(number * 7919 % rates as usize).unwrap();
    let hash = request_hash("rates");
    load::post_request("rate_get", &format!("u=admin&username=rates&prefix={prefix}99&hash={hash}"))
}

/// Warms the server up, then runs the rounds.
async fn run_requests(server: &ServerProcess, rates: u32, rounds: usize) -> LoadResult {
    let mut load = LoadResult::default();
    let warmup = StopCondition::Requests(200);
    load::run(&[server.address], CLIENT_COUNT, warmup, "<rate>", move |number| lookup_request(number, rates)).await;
    for _ in 0..rounds {
        let request = move |number| lookup_request(number, rates);
        let until = StopCondition::Time(RUN_DURATION);
        load.add(load::run(&[server.address], CLIENT_COUNT, until, "<rate>", request).await);
    }
    load
}

async fn measure_lookups(environment: &BenchEnvironment, size: BenchSize, few: &LoadResult, report: &mut Report) {
    let (last_prefix, rates) = (FIRST_PREFIX + size.rates, size.rates);
    let statement = Script::rate_get(USER_ID, FIRST_PREFIX + 1, last_prefix);
    let by_id = Script::from_text(format!(
        "\\set id random(1, {rates})\nselect prefix, name from destinations where id = :id;\n"
    ));
    let server = environment.start_server(&[]);
    let (mut http, mut pgbench, mut baseline) = (LoadResult::default(), 0.0, 0.0);
    for _ in 0..ROUNDS {
        http.add(run_requests(&server, rates, 1).await);
        pgbench += statement.run(environment, CLIENT_COUNT, RUN_DURATION) / ROUNDS as f64;
        baseline += by_id.run(environment, CLIENT_COUNT, RUN_DURATION) / ROUNDS as f64;
    }
    report.add(
        Measurement::new("rate_get, 16 connections", http.requests_per_second(), "requests/s")
            .with_latency(http.percentile(0.5), http.percentile(0.99))
            .with_baseline("pgbench, same SELECT", pgbench)
            .with_goal(Goal::RatioAtLeast(0.8)),
    );
    report.add(
        Measurement::new("statement of rate_get, in pgbench", pgbench, "statements/s")
            .with_baseline("pgbench, SELECT by id", baseline)
            .with_goal(Goal::RatioAtLeast(0.35)),
    );
    report.add(
        Measurement::new(format!("rate_get with {rates} rates"), http.requests_per_second(), "requests/s")
            .with_baseline("with 1000 rates", few.requests_per_second())
            .with_goal(Goal::RatioAtLeast(0.9)),
    );
}

async fn measure_lists(environment: &BenchEnvironment, size: BenchSize, report: &mut Report) {
    const ROUNDS: usize = 3;
    let query = find_statement(&["-- The rates of a wholesale tariff"]).text.replace("$1", &TARIFF_ID.to_string());
    let server = environment.start_server(&[]);
    let hash = request_hash(&TARIFF_ID.to_string());
    let form = |test: &str| format!("u=admin&tariff_id={TARIFF_ID}{test}&hash={hash}");
    // The first requests open a connection.
    download(server.address, &form("&test=1")).await;
    let before = server.memory_mb("VmRSS");
    let (mut copy, mut text, mut zip) = (0.0, Download::default(), Download::default());
    for _ in 0..ROUNDS {
        copy += time_copy(environment, &query) / ROUNDS as f64;
        text.add(download(server.address, &form("&test=1")).await);
        zip.add(download(server.address, &form("")).await);
    }
    let memory = server.memory_mb("VmHWM") - before;
    let mean = |download: &Download| download.seconds / ROUNDS as f64;
    let name = |form: &str, download: &Download| {
        format!("tariff_rates_get, {} rates, {} MB {form}", size.rates, download.bytes / ROUNDS / 1_000_000)
    };
    report.add(
        Measurement::new(name("of text", &text), mean(&text), "s")
            .with_baseline("COPY of the same query", copy)
            .with_goal(Goal::RatioAtMost(2.0)),
    );
    report.add(
        Measurement::new(name("as zip", &zip), mean(&zip), "s")
            .with_baseline("the same as text", mean(&text))
            .with_goal(Goal::RatioAtMost(1.5)),
    );
    report.add(Measurement::new("server memory for tariff_rates_get", memory, "MB").with_goal(Goal::AtMost(8.0)));
    let first_byte = text.first_byte_ms.max(zip.first_byte_ms);
    report.add(Measurement::new("first byte of tariff_rates_get", first_byte, "ms").with_goal(Goal::AtMost(50.0)));
}

/// The duration of `COPY (query) TO STDOUT`, in seconds.
fn time_copy(environment: &BenchEnvironment, query: &str) -> f64 {
    let start = Instant::now();
    let status = Command::new("psql")
        .args(["-X", "-q", "-c", &format!("copy ({query}) to stdout"), "-h"])
        .arg(environment.connect_options.get_socket().unwrap())
        .args(["-p", "5432", "-U", "mortise", "mortise"])
        .env("PGPASSWORD", &environment.password)
        .env("PGOPTIONS", "-c jit=off")
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    start.elapsed().as_secs_f64()
}

/// Whole replies.
#[derive(Debug, Default)]
struct Download {
    bytes: usize,
    seconds: f64,
    /// The longest time until the first byte after the headers.
    first_byte_ms: f64,
}

impl Download {
    fn add(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.seconds += other.seconds;
        self.first_byte_ms = self.first_byte_ms.max(other.first_byte_ms);
    }
}

/// Sends one request and reads the whole reply, without looking at it: the time belongs to the server.
async fn download(server: SocketAddr, form: &str) -> Download {
    let start = Instant::now();
    let mut stream = TcpStream::connect(server).await.unwrap();
    let request = String::from_utf8(load::post_request("tariff_rates_get", form)).unwrap();
    let request = request.replace("Host: shop", "Host: shop\r\nConnection: close");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut download = Download::default();
    let (mut buffer, mut end) = (vec![0; 256 * 1024], Vec::new());
    loop {
        let read = stream.read(&mut buffer).await.unwrap();
        if read == 0 {
            assert!(end.ends_with(b"\r\n0\r\n\r\n"), "the reply is incomplete");
            download.seconds = start.elapsed().as_secs_f64();
            return download;
        }
        // The headers and the head of the reply may come in one packet or in two.
        if download.first_byte_ms == 0.0 && (download.bytes > 0 || !buffer[..read].ends_with(b"\r\n\r\n")) {
            download.first_byte_ms = start.elapsed().as_secs_f64() * 1000.0;
        }
        download.bytes += read;
        end.extend_from_slice(&buffer[read.saturating_sub(7)..read]);
        end.drain(..end.len().saturating_sub(7));
    }
}
