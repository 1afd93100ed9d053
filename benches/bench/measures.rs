//! The measurements, in the order in which they run.

use std::process::Command;
use std::time::{Duration, Instant};

use strum::IntoEnumIterator;

use crate::BenchSize;
use crate::console;
use crate::fixtures::{
    BenchEnvironment, CREATED_CARDS_GROUP_ID, FIRST_GROUP_ID, SOLD_OUT_GROUP_ID, ServerProcess, UNSOLD_GROUP_ID,
};
use crate::imports;
use crate::load::{self, LoadResult, StopCondition, request_hash};
use crate::mor_import;
use crate::pgbench::Script;
use crate::rates;
use crate::report::{Goal, Measurement, Report};
use crate::rounds::{self, Candidate};

/// The number of connections that sell.
pub const CLIENT_COUNT: usize = 16;

/// Runs the measurements, or those of one section.
pub async fn run_all(size: BenchSize, only: Option<Section>) -> Report {
    let mut report = Report::default();
    if only != Some(Section::MorImport) {
        run_on_one_database(size, only, &mut report).await;
    }
    if size.mor_cards > 0 && only.is_none_or(|only| only == Section::MorImport) {
        mor_import::measure(size.mor_cards, &mut report).await;
    }
    report
}

async fn run_on_one_database(size: BenchSize, only: Option<Section>, report: &mut Report) {
    eprintln!("creating the database");
    let environment = BenchEnvironment::new(size).await;
    for section in Section::iter().filter(|&section| only.is_none_or(|only| section == only)) {
        measure(section, &environment, size, report).await;
    }
    environment.stop().await;
    if only.is_none_or(|only| only == Section::Start) {
        measure_managed_start(report);
    }
}

/// A part of the benchmark, in the order of a whole run. `--only` takes its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::EnumIter, strum::EnumString, strum::VariantNames)]
#[strum(serialize_all = "kebab-case")]
pub enum Section {
    Start,
    Sales,
    BulkSales,
    Refusals,
    Reads,
    FirstAndLastCards,
    SlowReader,
    FailingClients,
    Servers,
    Connections,
    BulkCreate,
    Lists,
    Rates,
    Imports,
    Console,
    MorImport,
}

async fn measure(section: Section, environment: &BenchEnvironment, size: BenchSize, report: &mut Report) {
    match section {
        Section::Start => measure_start(environment, report),
        Section::Sales => measure_sales(environment, size, report).await,
        Section::BulkSales => measure_bulk_sales(environment, size, report).await,
        Section::Refusals => measure_refusals(environment, size, report).await,
        Section::Reads => measure_reads(environment, size, report).await,
        Section::FirstAndLastCards => measure_first_and_last_cards(environment, size, report).await,
        Section::SlowReader => measure_sales_beside_slow_reader(environment, size, report).await,
        Section::FailingClients => measure_sales_beside_failing_client(environment, size, report).await,
        Section::Servers => measure_server_counts(environment, size, report).await,
        Section::Connections if !size.is_full => {}
        Section::Connections => measure_connection_counts(environment, size, report).await,
        Section::BulkCreate => measure_bulk_create(environment, size, report).await,
        Section::Lists => measure_lists(environment, size, report).await,
        Section::Rates => rates::measure_rates(environment, size, report).await,
        Section::Imports => imports::measure(environment, size, report).await,
        Section::Console => console::measure(environment, size, report).await,
        // On databases of its own.
        Section::MorImport => {}
    }
}

/// The group of the request with a sequence number: requests are distributed evenly over the ten groups.
fn group_id(number: usize) -> u32 {
    FIRST_GROUP_ID + u32::try_from(number * 7 % 10).unwrap()
}

fn measure_start(environment: &BenchEnvironment, report: &mut Report) {
    let best = (0..5).map(|_| environment.start_server(&[]).startup_time.as_secs_f64()).fold(f64::INFINITY, f64::min);
    report.add(Measurement::new("start until ready, PostgreSQL running", best, "s").with_goal(Goal::AtMost(0.3)));
}

fn measure_managed_start(report: &mut Report) {
    let mut builder = tempfile::Builder::new();
    let data = builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755)).tempdir().unwrap();
    let start = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mortise"));
        let server = ServerProcess::start(command.env("MORTISE_DATA_DIR", data.path()).env_remove("DATABASE_URL"), &[]);
        let startup_time = server.startup_time.as_secs_f64();
        server.stop();
        startup_time
    };
    // The first start creates the cluster and is not measured.
    start();
    let best = (0..3).map(|_| start()).fold(f64::INFINITY, f64::min);
    let name = "start until ready, managed PostgreSQL included";
    report.add(Measurement::new(name, best, "s").with_goal(Goal::AtMost(0.6)));
}

/// A sale of one card, of the groups in turn.
pub fn sale_request(number: usize) -> Vec<u8> {
    load::sale_request(group_id(number), 1)
}

fn keyed_sale_request(number: usize) -> Vec<u8> {
    load::keyed_sale_request(group_id(number))
}

async fn measure_sales(environment: &BenchEnvironment, size: BenchSize, report: &mut Report) {
    let server = environment.start_server(&[]);
    report.add(Measurement::new("server memory, idle", server.memory_mb("VmRSS"), "MB").with_goal(Goal::AtMost(25.0)));
    let servers = [server.address];
    let pgbench = |script: Script| Candidate::pgbench(script.start(environment, CLIENT_COUNT));
    let candidates = [
        Candidate::requests(&servers, CLIENT_COUNT, "<pin>", sale_request),
        pgbench(Script::sale()),
        pgbench(Script::bare_sale()),
        Candidate::requests(&servers, CLIENT_COUNT, "<pin>", keyed_sale_request),
        pgbench(Script::sale_with_key()),
        pgbench(Script::sale_by_batch_statement()),
    ];
    let [http, pgbench_sale, pgbench_bare, http_keyed, pgbench_keyed, pgbench_batch] =
        rounds::run_rounds(environment, size, candidates).await;
    let (p50, p99) = (http.load.percentile(0.5), http.load.percentile(0.99));
    report.add(
        Measurement::new("sales, 16 connections", http.median_rate(), "sales/s")
            .with_latency(p50, p99)
            .with_baseline("pgbench, same statement", pgbench_sale.median_rate())
            .with_goal(Goal::RatioAtLeast(1.15)),
    );
    report.add(
        Measurement::new("statement of one sale, in pgbench", pgbench_sale.median_rate(), "sales/s")
            .with_baseline("pgbench, bare sale", pgbench_bare.median_rate())
            .with_goal(Goal::RatioAtLeast(0.65)),
    );
    report.add(
        Measurement::new("statement of one sale, in pgbench", pgbench_sale.median_rate(), "sales/s")
            .with_baseline("pgbench, batch statement with one order", pgbench_batch.median_rate()),
    );
    report.add(
        Measurement::new("sales with an idempotency key, 16 connections", http_keyed.median_rate(), "sales/s")
            .with_latency(http_keyed.load.percentile(0.5), http_keyed.load.percentile(0.99))
            .with_baseline("pgbench, same statement with key", pgbench_keyed.median_rate())
            .with_goal(Goal::RatioAtLeast(1.15)),
    );
    report.add(
        Measurement::new("p99 of sales, 16 connections", p99.as_secs_f64() * 1000.0, "ms")
            .with_baseline("p50 of the same sales", p50.as_secs_f64() * 1000.0)
            .with_goal(Goal::RatioAtMost(4.0)),
    );
    let candidates = [
        Candidate::requests(&servers, 1, "<pin>", sale_request),
        Candidate::pgbench(Script::sale().start(environment, 1)),
    ];
    let [http, pgbench] = rounds::run_rounds(environment, size, candidates).await;
    report.add(
        Measurement::new("sales, 1 connection", http.median_rate(), "sales/s")
            .with_latency(http.load.percentile(0.5), http.load.percentile(0.99))
            .with_baseline("pgbench, same statement", pgbench.median_rate())
            .with_goal(Goal::RatioAtLeast(0.7)),
    );
    report.add(
        Measurement::new("server memory, maximum during sales", server.memory_mb("VmHWM"), "MB")
            .with_goal(Goal::AtMost(80.0)),
    );
}

async fn measure_bulk_sales(environment: &BenchEnvironment, size: BenchSize, report: &mut Report) {
    environment.restock(size).await;
    let server = environment.start_server(&[]);
    // At most half of the cards in the ten groups.
    let requests = usize::try_from(size.cards_per_group).unwrap() * 10 / 2 / 100 / 8;
    let load = load::run(&[server.address], 8, StopCondition::Requests(requests.min(60)), "<pin>", |number| {
        load::sale_request(group_id(number), 100)
    })
    .await;
    report.add(
        Measurement::new("quantity=100, 8 connections", load.requests_per_second() * 100.0, "cards/s")
            .with_latency(load.percentile(0.5), load.percentile(0.99))
            .with_goal(Goal::AtLeast(50_000.0)),
    );
}

async fn measure_refusals(environment: &BenchEnvironment, size: BenchSize, report: &mut Report) {
    const WRONG_HASH_FORM: &str = "u=admin&id=101&quantity=1&hash=37086d860581fabc278413cd1a417d5c079f6eba";
    let server = environment.start_server(&[("log", "error,mortise::server=info"), ("failed_attempts_max", "0")]);
    let servers = [server.address];
    let candidates = [
        Candidate::requests(&servers, CLIENT_COUNT, "ok", |_| load::get_request("/livez")),
        Candidate::requests(&servers, CLIENT_COUNT, "Incorrect hash", |_| {
            load::post_request("card_from_group_sell", WRONG_HASH_FORM)
        }),
        Candidate::requests(&servers, CLIENT_COUNT, "Incorrect hash", |_| {
            load::get_request(&format!("/billing/api/card_from_group_sell?{WRONG_HASH_FORM}"))
        }),
    ];
    let [livez, by_post, by_get] = rounds::run_rounds(environment, size, candidates).await;
    for (method, refused) in [("POST", by_post), ("GET", by_get)] {
        let name = format!("refused hashes by {method}, 16 connections");
        report.add(
            Measurement::new(name, refused.median_rate(), "requests/s")
                .with_latency(refused.load.percentile(0.5), refused.load.percentile(0.99))
                .with_baseline("/livez", livez.median_rate()),
        );
    }
}

async fn measure_reads(environment: &BenchEnvironment, size: BenchSize, report: &mut Report) {
    const RUN_DURATION: Duration = Duration::from_secs(1);
    let server = environment.start_server(&[]);
    let script = Script::card_group_get();
    let (mut http, mut pgbench) = (LoadResult::default(), 0.0);
    let rounds = size.rounds / 4;
    for _ in 0..rounds {
        let request = |number| {
            let group = group_id(number);
            load::post_request(
                "card_group_get",
                &format!("u=admin&id={group}&hash={}", request_hash(&group.to_string())),
            )
        };
        http.add(
            load::run(&[server.address], CLIENT_COUNT, StopCondition::Time(RUN_DURATION), "<free_cards_size>", request)
                .await,
        );
        pgbench += script.run(environment, CLIENT_COUNT, RUN_DURATION) / rounds as f64;
    }
    report.add(
        Measurement::new("card_group_get, 16 connections", http.requests_per_second(), "requests/s")
            .with_latency(http.percentile(0.5), http.percentile(0.99))
            .with_baseline("pgbench, same SELECT", pgbench)
            .with_goal(Goal::RatioAtLeast(0.8)),
    );
}

/// Sells a group except for its last cards. Then sells these and the first cards of a group of the same size, in
/// alternating rounds.
async fn measure_first_and_last_cards(environment: &BenchEnvironment, size: BenchSize, report: &mut Report) {
    const ROUNDS: usize = 5;
    let server = environment.start_server(&[]);
    let last_cards = size.sold_out_cards / if size.is_full { 100 } else { 20 };
    let bulk_requests = usize::try_from((size.sold_out_cards - last_cards) / 1000 / 4).unwrap();
    load::run(&[server.address], 4, StopCondition::Requests(bulk_requests), "<pin>", |_| {
        load::sale_request(SOLD_OUT_GROUP_ID, 1000)
    })
    .await;
    let requests = StopCondition::Requests(usize::try_from(last_cards).unwrap() / ROUNDS / CLIENT_COUNT);
    let (mut first, mut last) = (LoadResult::default(), LoadResult::default());
    for _ in 0..ROUNDS {
        for (group, load) in [(UNSOLD_GROUP_ID, &mut first), (SOLD_OUT_GROUP_ID, &mut last)] {
            let request = move |_| load::sale_request(group, 1);
            load.add(load::run(&[server.address], CLIENT_COUNT, requests, "<pin>", request).await);
        }
    }
    let name = if size.is_full { "last 1 % of 1,000,000 cards" } else { "last 5 % of 100,000 cards" };
    report.add(
        Measurement::new(name, last.requests_per_second(), "sales/s")
            .with_latency(last.percentile(0.5), last.percentile(0.99))
            .with_baseline("first cards of another group", first.requests_per_second())
            .with_goal(Goal::RatioAtLeast(0.9)),
    );
}

/// Sells without and beside a client that reads the list of all cards slowly, in alternating rounds. A snapshot that
/// stays open slows down sales in proportion to the cards that are sold meanwhile, so that each round sells many.
async fn measure_sales_beside_slow_reader(environment: &BenchEnvironment, size: BenchSize, report: &mut Report) {
    const ROUNDS: usize = 3;
    let server = environment.start_server(&[]);
    // At most half of the cards of the ten groups.
    let sales = (usize::try_from(size.cards_per_group).unwrap() * 10 / 2).min(50_000);
    let requests = StopCondition::Requests(sales / CLIENT_COUNT);
    let (mut alone, mut beside) = (LoadResult::default(), LoadResult::default());
    for _ in 0..ROUNDS {
        for (has_reader, load) in [(false, &mut alone), (true, &mut beside)] {
            environment.restock(size).await;
            environment.execute("vacuum card_stock").await;
            let form = format!("u=admin&hash={}", request_hash(""));
            let reader = match has_reader {
                true => Some(load::start_slow_download(server.address, "calling_cards_get", &form).await),
                false => None,
            };
            load.add(load::run(&[server.address], CLIENT_COUNT, requests, "<pin>", sale_request).await);
            if let Some(reader) = reader {
                assert!(!reader.is_finished(), "the server ended the slow reader");
                reader.abort();
            }
        }
    }
    report.add(
        Measurement::new("sales beside a slow reader of a list, 128 kB/s", beside.requests_per_second(), "sales/s")
            .with_latency(beside.percentile(0.5), beside.percentile(0.99))
            .with_baseline("sales without it", alone.requests_per_second())
            .with_goal(Goal::RatioAtLeast(0.7)),
    );
}

/// Sells without and beside a client that sends the same sale again and again, in alternating rounds: with an answered
/// key, with keys that another server is processing, and from a group whose next card the database refuses.
async fn measure_sales_beside_failing_client(environment: &BenchEnvironment, size: BenchSize, report: &mut Report) {
    const ROUNDS: usize = 8;
    let server = environment.start_server(&[]);
    let servers = [server.address];
    environment
        .execute(&format!(
            "alter table payments add constraint bench_refused check (amount <> 77) not valid;
             update cards set balance = 77 where id = (
                 select card_id from card_stock where cardgroup_id = {UNSOLD_GROUP_ID} order by number, card_id limit 1)"
        ))
        .await;
    let replay: fn(usize) -> Vec<u8> = |_| load::sale_request_with_key(FIRST_GROUP_ID, "answered");
    let busy: fn(usize) -> Vec<u8> =
        |number| load::sale_request_with_key(FIRST_GROUP_ID, &format!("busy{}", number % 4));
    let refused: fn(usize) -> Vec<u8> = |_| load::sale_request(UNSOLD_GROUP_ID, 1);
    for (name, expected, request) in [
        ("that repeat an answered key", "<pin>", replay),
        ("that send keys in progress elsewhere", "A request with this idempotency key", busy),
        // While one of them has locked the refused card, another one may sell the next card.
        ("whose sales the database refuses", "<page>", refused),
    ] {
        let mut loads: [LoadResult; 3] = Default::default();
        for _ in 0..ROUNDS {
            for (failing_clients, load) in [0, 1, 4].into_iter().zip(&mut loads) {
                environment.restock(size).await;
                // Open for one run only: its snapshot keeps the index entries of sold cards alive, which slows down the
                // sales without failing clients too.
                let other_server = claim_busy_keys(environment).await;
                let failing = (failing_clients > 0)
                    .then(|| load::spawn_until_aborted(&servers, failing_clients, expected, request));
                let end = StopCondition::Time(size.run_duration);
                load.add(load::run(&servers, CLIENT_COUNT, end, "<pin>", sale_request).await);
                drop(failing);
                other_server.rollback().await.unwrap();
            }
        }
        let [alone, beside_one, beside_four] = loads;
        for (clients, beside) in [("1 client", beside_one), ("4 clients", beside_four)] {
            let rate = beside.requests_per_second();
            let measurement = Measurement::new(format!("sales beside {clients} {name}"), rate, "sales/s")
                .with_latency(beside.percentile(0.5), beside.percentile(0.99))
                .with_baseline("sales without them", alone.requests_per_second());
            report.add(match clients {
                "1 client" => measurement.with_goal(Goal::RatioAtLeast(0.7)),
                _ => measurement,
            });
        }
    }
    environment.execute("alter table payments drop constraint bench_refused").await;
}

/// Claims keys in a transaction, as a request does that runs in another server.
async fn claim_busy_keys(environment: &BenchEnvironment) -> sqlx::PgTransaction<'static> {
    let mut transaction = environment.pool.begin().await.unwrap();
    sqlx::query(
        "insert into idempotency_keys (user_id, operation, key, fingerprint)
         select 0, 'card_from_group_sell', 'busy' || client, '' from generate_series(0, 3) client",
    )
    .execute(&mut *transaction)
    .await
    .unwrap();
    transaction
}

async fn measure_server_counts(environment: &BenchEnvironment, size: BenchSize, report: &mut Report) {
    // The total of database connections is the same for any number of servers. It is small because the connections of
    // all these servers stay open at the same time.
    let start = |count: usize, settings: &[(&str, &str)]| {
        let connections = (CLIENT_COUNT / 2 / count).to_string();
        let settings = [&[("database_connections", connections.as_str())], settings].concat();
        (0..count).map(|_| environment.start_server(&settings)).collect::<Vec<_>>()
    };
    let server_sets = [start(1, &[]), start(2, &[]), start(4, &[]), start(1, &[("sale_concurrency", "1000")])];
    let candidates = server_sets.each_ref().map(|servers| {
        let addresses: Vec<_> = servers.iter().map(|server| server.address).collect();
        Candidate::requests(&addresses, CLIENT_COUNT, "<pin>", sale_request)
    });
    let [one, two, four, unbatched] = rounds::run_rounds(environment, size, candidates).await;
    for (count, servers, goal) in [(2, two, 1.3), (4, four, 0.95)] {
        let name = format!("sales through {count} servers");
        report.add(
            Measurement::new(&name, servers.median_rate(), "sales/s")
                .with_baseline("sales through 1 server", one.median_rate()),
        );
        // A name of its own: programs that read the JSON report use the name as the key.
        report.add(
            Measurement::new(format!("{name}, baseline without batching"), servers.median_rate(), "sales/s")
                .with_baseline("sales through 1 server, not batched", unbatched.median_rate())
                .with_goal(Goal::RatioAtLeast(goal)),
        );
    }
    let sold_twice: i64 = sqlx::query_scalar(
        "select count(*) from (select from payments where kind = 'sale' group by user_id having count(*) > 1) twice",
    )
    .fetch_one(&environment.pool)
    .await
    .unwrap();
    report.add(Measurement::new("cards sold twice, in all", sold_twice as f64, "").with_goal(Goal::AtMost(0.0)));
}

async fn measure_connection_counts(environment: &BenchEnvironment, size: BenchSize, report: &mut Report) {
    const RUN_DURATION: Duration = Duration::from_millis(1500);
    let server = environment.start_server(&[]);
    for connections in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512] {
        environment.restock(size).await;
        let load =
            load::run(&[server.address], connections, StopCondition::Time(RUN_DURATION), "<pin>", sale_request).await;
        report.add(
            Measurement::new(format!("sales by connections: {connections}"), load.requests_per_second(), "sales/s")
                .with_latency(load.percentile(0.5), load.percentile(0.99)),
        );
    }
    report.add(
        Measurement::new("server memory, maximum with 512 connections", server.memory_mb("VmHWM"), "MB")
            .with_goal(Goal::AtMost(80.0)),
    );
}

async fn measure_bulk_create(environment: &BenchEnvironment, size: BenchSize, report: &mut Report) {
    let server = environment.start_server(&[]);
    let before = server.memory_mb("VmHWM");
    let (first, last) = (500_000_000_000_u64, 500_000_000_000_u64 + u64::from(size.created_cards) - 1);
    let form = format!(
        "u=admin&card_group_id={CREATED_CARDS_GROUP_ID}&cards_from={first}&cards_till={last}&hash={}",
        request_hash(&format!("{CREATED_CARDS_GROUP_ID}{first}{last}"))
    );
    // The mean of one insert before and one after: later inserts are slower, because the indexes are larger and pages
    // of earlier inserts are still to be written.
    let mut bare_insert = time_bare_insert(environment, size).await / 2.0;
    let start = Instant::now();
    load::run(&[server.address], 1, StopCondition::Requests(1), "Cards created", move |_| {
        load::post_request("calling_cards_create", &form)
    })
    .await;
    let seconds = start.elapsed().as_secs_f64();
    let memory = server.memory_mb("VmHWM") - before;
    bare_insert += time_bare_insert(environment, size).await / 2.0;
    report.add(
        Measurement::new(format!("calling_cards_create, {} cards", size.created_cards), seconds, "s")
            .with_baseline("bare INSERT … SELECT", bare_insert)
            .with_goal(Goal::RatioAtMost(1.5)),
    );
    report.add(Measurement::new("server memory for calling_cards_create", memory, "MB").with_goal(Goal::AtMost(24.0)));
}

/// The duration of one INSERT … SELECT of the same number of cards, in seconds.
async fn time_bare_insert(environment: &BenchEnvironment, size: BenchSize) -> f64 {
    let start = Instant::now();
    environment.add_cards(UNSOLD_GROUP_ID, size.created_cards).await;
    start.elapsed().as_secs_f64()
}

async fn measure_lists(environment: &BenchEnvironment, size: BenchSize, report: &mut Report) {
    environment
        .execute(&format!(
            "insert into cardgroups (name, tax_id) select 'listed ' || i, 1 from generate_series(1, {}) i;
             analyze cardgroups",
            size.listed_groups
        ))
        .await;
    environment.execute("vacuum cards").await;
    let server = environment.start_server(&[]);
    let form = format!("u=admin&hash={}", request_hash(""));
    let (_, groups, duration) = load::download(server.address, "cc_groups_get", &form, b"<cc_group>").await;
    report.add(Measurement::new(format!("cc_groups_get, {groups} groups"), duration.as_secs_f64(), "s"));
    let before = server.memory_mb("VmHWM");
    let (bytes, cards, duration) = load::download(server.address, "calling_cards_get", &form, b"<card>").await;
    let rate = cards as f64 / duration.as_secs_f64();
    report.add(Measurement::new(
        format!("calling_cards_get, {cards} cards, {} MB", bytes / 1_000_000),
        rate,
        "cards/s",
    ));
    report.add(
        Measurement::new("server memory for calling_cards_get", server.memory_mb("VmHWM") - before, "MB")
            .with_goal(Goal::AtMost(16.0)),
    );
}
