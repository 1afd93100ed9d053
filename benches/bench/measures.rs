//! What is measured, in order.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::BenchSize;
use crate::fixtures::{
    BenchEnvironment, CREATED_CARDS_GROUP_ID, FIRST_GROUP_ID, SOLD_OUT_GROUP_ID, ServerProcess, UNSOLD_GROUP_ID,
};
use crate::load::{self, LoadResult, StopCondition, request_hash};
use crate::pgbench::Script;
use crate::report::{Goal, Measurement, Report};
use crate::rounds::{self, Candidate};

const CLIENT_COUNT: usize = 16;

pub async fn run_all(size: BenchSize) -> Report {
    let mut report = Report::default();
    eprintln!("filling a database");
    let world = BenchEnvironment::new(size).await;
    measure_start(&world, &mut report);
    measure_sales(&world, size, &mut report).await;
    measure_bulk_sales(&world, size, &mut report).await;
    measure_refusals(&world, size, &mut report).await;
    measure_reads(&world, size, &mut report).await;
    measure_first_and_last_cards(&world, size, &mut report).await;
    measure_server_counts(&world, size, &mut report).await;
    if size.is_full {
        measure_connection_counts(&world, size, &mut report).await;
    }
    measure_bulk_create(&world, size, &mut report).await;
    measure_lists(&world, size, &mut report).await;
    world.stop().await;
    measure_managed_start(&mut report);
    report
}

/// The group of the request with a number: all in turn.
fn group_id(number: usize) -> u32 {
    FIRST_GROUP_ID + u32::try_from(number * 7 % 10).unwrap()
}

fn measure_start(world: &BenchEnvironment, report: &mut Report) {
    let best = (0..5).map(|_| world.start_server(&[]).startup_time.as_secs_f64()).fold(f64::INFINITY, f64::min);
    report.add(Measurement::new("start to ready, PostgreSQL running", best, "s").with_goal(Goal::AtMost(0.3)));
}

fn measure_managed_start(report: &mut Report) {
    let mut builder = tempfile::Builder::new();
    let data = builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755)).tempdir().unwrap();
    let start = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mortise"));
        let server = ServerProcess::start(command.env("MORTISE_DATA_DIR", data.path()).env_remove("DATABASE_URL"), &[]);
        let ready = server.startup_time.as_secs_f64();
        server.stop();
        ready
    };
    start();
    let best = (0..3).map(|_| start()).fold(f64::INFINITY, f64::min);
    report.add(Measurement::new("start to ready, PostgreSQL with it", best, "s").with_goal(Goal::AtMost(0.6)));
}

fn sale_request(number: usize) -> Vec<u8> {
    load::sale_request(group_id(number), 1)
}

fn keyed_sale_request(number: usize) -> Vec<u8> {
    load::keyed_sale_request(group_id(number))
}

async fn measure_sales(world: &BenchEnvironment, size: BenchSize, report: &mut Report) {
    let server = world.start_server(&[]);
    report
        .add(Measurement::new("server memory at rest", server.memory_mb("VmRSS"), "MB").with_goal(Goal::AtMost(25.0)));
    let servers = [server.address];
    let pgbench = |script: Script| Candidate::pgbench(script.start(world, CLIENT_COUNT));
    let candidates = [
        Candidate::requests(&servers, CLIENT_COUNT, "<pin>", sale_request),
        pgbench(Script::sale()),
        pgbench(Script::bare_sale()),
        Candidate::requests(&servers, CLIENT_COUNT, "<pin>", keyed_sale_request),
        pgbench(Script::sale_with_key()),
    ];
    let [http, same, bare, http_once, with_key] = rounds::run_rounds(world, size, candidates).await;
    let (p50, p99) = (http.load.percentile(0.5), http.load.percentile(0.99));
    report.add(
        Measurement::new("card_from_group_sell, 16 connections", http.median_rate(), "sales/s")
            .with_latency(p50, p99)
            .with_baseline("pgbench, the same statement", same.median_rate())
            .with_goal(Goal::RatioAtLeast(0.85)),
    );
    report.add(
        Measurement::new("that statement, by pgbench", same.median_rate(), "sales/s")
            .with_baseline("pgbench, a bare sale", bare.median_rate())
            .with_goal(Goal::RatioAtLeast(0.65)),
    );
    report.add(
        Measurement::new("with an idempotency key", http_once.median_rate(), "sales/s")
            .with_latency(http_once.load.percentile(0.5), http_once.load.percentile(0.99))
            .with_baseline("pgbench, the same statement", with_key.median_rate())
            .with_goal(Goal::RatioAtLeast(0.75)),
    );
    report.add(
        Measurement::new("p99 of these sales", p99.as_secs_f64() * 1000.0, "ms")
            .with_baseline("their p50", p50.as_secs_f64() * 1000.0)
            .with_goal(Goal::RatioAtMost(4.0)),
    );
    let candidates =
        [Candidate::requests(&servers, 1, "<pin>", sale_request), Candidate::pgbench(Script::sale().start(world, 1))];
    let [lone, pgbench] = rounds::run_rounds(world, size, candidates).await;
    report.add(
        Measurement::new("card_from_group_sell, one connection", lone.median_rate(), "sales/s")
            .with_latency(lone.load.percentile(0.5), lone.load.percentile(0.99))
            .with_baseline("pgbench, the same statement", pgbench.median_rate()),
    );
    report
        .add(Measurement::new("server memory, at most", server.memory_mb("VmHWM"), "MB").with_goal(Goal::AtMost(80.0)));
}

async fn measure_bulk_sales(world: &BenchEnvironment, size: BenchSize, report: &mut Report) {
    world.restock(size).await;
    let server = world.start_server(&[]);
    let most = usize::try_from(size.cards_per_group).unwrap() * 10 / 2 / 100 / 8;
    let load = load::run(&[server.address], 8, StopCondition::Requests(most.min(60)), "<pin>", |number| {
        load::sale_request(group_id(number), 100)
    })
    .await;
    report.add(
        Measurement::new("quantity=100, 8 connections", load.requests_per_second() * 100.0, "cards/s")
            .with_latency(load.percentile(0.5), load.percentile(0.99))
            .with_goal(Goal::AtLeast(20_000.0)),
    );
}

async fn measure_refusals(world: &BenchEnvironment, size: BenchSize, report: &mut Report) {
    const WRONG_HASH_FORM: &str = "u=admin&id=101&quantity=1&hash=37086d860581fabc278413cd1a417d5c079f6eba";
    let server = world.start_server(&[("log", "error,mortise::server=info"), ("failed_attempts_max", "0")]);
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
    let [livez, by_post, by_get] = rounds::run_rounds(world, size, candidates).await;
    for (how, refused) in [("POST", by_post), ("GET", by_get)] {
        report.add(
            Measurement::new(format!("refused hashes by {how}, 16 connections"), refused.median_rate(), "requests/s")
                .with_latency(refused.load.percentile(0.5), refused.load.percentile(0.99))
                .with_baseline("/livez", livez.median_rate())
                .with_goal(Goal::RatioAtLeast(0.8)),
        );
    }
}

async fn measure_reads(world: &BenchEnvironment, size: BenchSize, report: &mut Report) {
    const RUN_DURATION: Duration = Duration::from_secs(1);
    let server = world.start_server(&[]);
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
        pgbench += script.run(world, CLIENT_COUNT, RUN_DURATION) / rounds as f64;
    }
    report.add(
        Measurement::new("card_group_get, 16 connections", http.requests_per_second(), "requests/s")
            .with_latency(http.percentile(0.5), http.percentile(0.99))
            .with_baseline("pgbench, the same select", pgbench)
            .with_goal(Goal::RatioAtLeast(0.8)),
    );
}

/// A group is sold down to its last cards; then these and the first ones of another, as large, are sold in turns.
async fn measure_first_and_last_cards(world: &BenchEnvironment, size: BenchSize, report: &mut Report) {
    const ROUNDS: usize = 5;
    let server = world.start_server(&[]);
    let part = size.sold_out_cards / if size.is_full { 100 } else { 20 };
    let handfuls = usize::try_from((size.sold_out_cards - part) / 1000 / 4).unwrap();
    load::run(&[server.address], 4, StopCondition::Requests(handfuls), "<pin>", |_| {
        load::sale_request(SOLD_OUT_GROUP_ID, 1000)
    })
    .await;
    let each = StopCondition::Requests(usize::try_from(part).unwrap() / ROUNDS / CLIENT_COUNT);
    let (mut first, mut last) = (LoadResult::default(), LoadResult::default());
    for _ in 0..ROUNDS {
        for (group, load) in [(UNSOLD_GROUP_ID, &mut first), (SOLD_OUT_GROUP_ID, &mut last)] {
            load.add(
                load::run(&[server.address], CLIENT_COUNT, each, "<pin>", move |_| load::sale_request(group, 1)).await,
            );
        }
    }
    let what =
        if size.is_full { "the last 1 % of a million cards" } else { "the last 5 % of a hundred thousand cards" };
    report.add(
        Measurement::new(what, last.requests_per_second(), "sales/s")
            .with_latency(last.percentile(0.5), last.percentile(0.99))
            .with_baseline("the first of another", first.requests_per_second())
            .with_goal(Goal::RatioAtLeast(0.9)),
    );
}

async fn measure_server_counts(world: &BenchEnvironment, size: BenchSize, report: &mut Report) {
    // As many database connections in all, however many servers share them; and few, since all of these stay open.
    let start = |count: usize, settings: &[(&str, &str)]| {
        let connections = (CLIENT_COUNT / 2 / count).to_string();
        let settings = [&[("database_connections", connections.as_str())], settings].concat();
        (0..count).map(|_| world.start_server(&settings)).collect::<Vec<_>>()
    };
    let running = [start(1, &[]), start(2, &[]), start(4, &[]), start(1, &[("sale_concurrency", "1000")])];
    let candidates = running.each_ref().map(|servers| {
        let addresses: Vec<_> = servers.iter().map(|server| server.address).collect();
        Candidate::requests(&addresses, CLIENT_COUNT, "<pin>", sale_request)
    });
    let [one, two, four, apart] = rounds::run_rounds(world, size, candidates).await;
    for (count, servers) in [(2, two), (4, four)] {
        let what = format!("sales through {count} servers");
        report.add(
            Measurement::new(&what, servers.median_rate(), "sales/s")
                .with_baseline("through one", one.median_rate())
                .with_goal(Goal::RatioAtLeast(0.95)),
        );
        // Two lines of one name would be one to whoever reads the JSON.
        report.add(
            Measurement::new(format!("{what}, once more"), servers.median_rate(), "sales/s")
                .with_baseline("through one, each by itself", apart.median_rate()),
        );
    }
    let twice: i64 = sqlx::query_scalar(
        "select count(*) from (select from payments where kind = 'sale' group by user_id having count(*) > 1) twice",
    )
    .fetch_one(&world.pool)
    .await
    .unwrap();
    report.add(Measurement::new("cards sold twice, in all", twice as f64, "").with_goal(Goal::AtMost(0.0)));
}

async fn measure_connection_counts(world: &BenchEnvironment, size: BenchSize, report: &mut Report) {
    const RUN_DURATION: Duration = Duration::from_millis(1500);
    let server = world.start_server(&[]);
    for connections in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512] {
        world.restock(size).await;
        let load =
            load::run(&[server.address], connections, StopCondition::Time(RUN_DURATION), "<pin>", sale_request).await;
        report.add(
            Measurement::new(format!("sales, {connections} connections"), load.requests_per_second(), "sales/s")
                .with_latency(load.percentile(0.5), load.percentile(0.99)),
        );
    }
    report.add(
        Measurement::new("server memory with 512 connections, at most", server.memory_mb("VmHWM"), "MB")
            .with_goal(Goal::AtMost(80.0)),
    );
}

async fn measure_bulk_create(world: &BenchEnvironment, size: BenchSize, report: &mut Report) {
    let server = world.start_server(&[]);
    let before = server.memory_mb("VmHWM");
    let (from, till) = (500_000_000_000_u64, 500_000_000_000_u64 + u64::from(size.created_cards) - 1);
    let form = format!(
        "u=admin&card_group_id={CREATED_CARDS_GROUP_ID}&cards_from={from}&cards_till={till}&hash={}",
        request_hash(&format!("{CREATED_CARDS_GROUP_ID}{from}{till}"))
    );
    // Before and after: whoever comes later finds larger indexes and an earlier one's pages still to be written.
    let mut bare = time_bare_insert(world, size).await / 2.0;
    let since = Instant::now();
    load::run(&[server.address], 1, StopCondition::Requests(1), "Cards created", move |_| {
        load::post_request("calling_cards_create", &form)
    })
    .await;
    let made = since.elapsed().as_secs_f64();
    let memory = server.memory_mb("VmHWM") - before;
    bare += time_bare_insert(world, size).await / 2.0;
    report.add(
        Measurement::new(format!("calling_cards_create of {} cards", size.created_cards), made, "s")
            .with_baseline("a bare INSERT … SELECT", bare)
            .with_goal(Goal::RatioAtMost(1.5)),
    );
    report.add(Measurement::new("server memory that it took", memory, "MB").with_goal(Goal::AtMost(16.0)));
}

/// How many seconds one INSERT … SELECT of as many cards takes.
async fn time_bare_insert(world: &BenchEnvironment, size: BenchSize) -> f64 {
    let since = Instant::now();
    world.add_cards(UNSOLD_GROUP_ID, size.created_cards).await;
    since.elapsed().as_secs_f64()
}

async fn measure_lists(world: &BenchEnvironment, size: BenchSize, report: &mut Report) {
    world
        .execute(&format!(
            "insert into cardgroups (name, tax_id) select 'listed ' || i, 1 from generate_series(1, {}) i; analyze cardgroups",
            size.listed_groups
        ))
        .await;
    world.execute("vacuum cards").await;
    let server = world.start_server(&[]);
    let form = format!("u=admin&hash={}", request_hash(""));
    let (_, groups, time) = load::download(server.address, "cc_groups_get", &form, b"<cc_group>").await;
    report.add(Measurement::new(format!("cc_groups_get of {groups} groups"), time.as_secs_f64(), "s"));
    let before = server.memory_mb("VmHWM");
    let (bytes, cards, time) = load::download(server.address, "calling_cards_get", &form, b"<card>").await;
    let rate = cards as f64 / time.as_secs_f64();
    report.add(Measurement::new(
        format!("calling_cards_get of {cards} cards, {} MB", bytes / 1_000_000),
        rate,
        "cards/s",
    ));
    report.add(
        Measurement::new("server memory that it took", server.memory_mb("VmHWM") - before, "MB")
            .with_goal(Goal::AtMost(16.0)),
    );
}
