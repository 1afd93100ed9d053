//! What is measured, in order.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::Size;
use crate::fixtures::{FRESH, GROUPS, MADE, SOLD_OUT, Server, World};
use crate::load::{self, Load, Until, hash};
use crate::pgbench::Script;
use crate::report::{Goal, Line, Report};
use crate::rounds::{self, Candidate};

const CLIENTS: usize = 16;

pub async fn all(size: Size) -> Report {
    let mut report = Report::default();
    eprintln!("filling a database");
    let world = World::new(size).await;
    starts(&world, &mut report);
    sales(&world, size, &mut report).await;
    handfuls(&world, size, &mut report).await;
    refusals(&world, size, &mut report).await;
    reads(&world, size, &mut report).await;
    first_and_last(&world, size, &mut report).await;
    servers(&world, size, &mut report).await;
    if size.full {
        connections(&world, size, &mut report).await;
    }
    made_cards(&world, size, &mut report).await;
    lists(&world, size, &mut report).await;
    world.end().await;
    managed_start(&mut report);
    report
}

/// The group of the request with a number: all in turn.
fn group(number: usize) -> u32 {
    GROUPS + u32::try_from(number * 7 % 10).unwrap()
}

fn starts(world: &World, report: &mut Report) {
    let best = (0..5).map(|_| world.server(&[]).ready.as_secs_f64()).fold(f64::INFINITY, f64::min);
    report.add(Line::new("start to ready, PostgreSQL running", best, "s").goal(Goal::AtMost(0.3)));
}

fn managed_start(report: &mut Report) {
    let mut builder = tempfile::Builder::new();
    let data = builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755)).tempdir().unwrap();
    let start = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mortise"));
        let server = Server::start(command.env("MORTISE_DATA_DIR", data.path()).env_remove("DATABASE_URL"), &[]);
        let ready = server.ready.as_secs_f64();
        server.stop();
        ready
    };
    start();
    let best = (0..3).map(|_| start()).fold(f64::INFINITY, f64::min);
    report.add(Line::new("start to ready, PostgreSQL with it", best, "s").goal(Goal::AtMost(0.6)));
}

fn sale(number: usize) -> Vec<u8> {
    load::sale(group(number), 1)
}

fn sale_once(number: usize) -> Vec<u8> {
    load::sale_once(group(number))
}

async fn sales(world: &World, size: Size, report: &mut Report) {
    let server = world.server(&[]);
    report.add(Line::new("server memory at rest", server.memory("VmRSS"), "MB").goal(Goal::AtMost(25.0)));
    let servers = [server.address];
    let pgbench = |script: Script| Candidate::pgbench(script.start(world, CLIENTS));
    let candidates = [
        Candidate::requests(&servers, CLIENTS, "<pin>", sale),
        pgbench(Script::sale()),
        pgbench(Script::bare()),
        Candidate::requests(&servers, CLIENTS, "<pin>", sale_once),
        pgbench(Script::sale_with_key()),
    ];
    let [http, same, bare, http_once, with_key] = rounds::take(world, size, candidates).await;
    let (p50, p99) = (http.load.percentile(0.5), http.load.percentile(0.99));
    report.add(
        Line::new("card_from_group_sell, 16 connections", http.rate(), "sales/s")
            .latency(p50, p99)
            .against("pgbench, the same statement", same.rate())
            .goal(Goal::ShareAtLeast(0.85)),
    );
    report.add(
        Line::new("that statement, by pgbench", same.rate(), "sales/s")
            .against("pgbench, a bare sale", bare.rate())
            .goal(Goal::ShareAtLeast(0.65)),
    );
    report.add(
        Line::new("with an idempotency key", http_once.rate(), "sales/s")
            .latency(http_once.load.percentile(0.5), http_once.load.percentile(0.99))
            .against("pgbench, the same statement", with_key.rate())
            .goal(Goal::ShareAtLeast(0.75)),
    );
    report.add(
        Line::new("p99 of these sales", p99.as_secs_f64() * 1000.0, "ms")
            .against("their p50", p50.as_secs_f64() * 1000.0)
            .goal(Goal::ShareAtMost(4.0)),
    );
    let candidates =
        [Candidate::requests(&servers, 1, "<pin>", sale), Candidate::pgbench(Script::sale().start(world, 1))];
    let [lone, pgbench] = rounds::take(world, size, candidates).await;
    report.add(
        Line::new("card_from_group_sell, one connection", lone.rate(), "sales/s")
            .latency(lone.load.percentile(0.5), lone.load.percentile(0.99))
            .against("pgbench, the same statement", pgbench.rate()),
    );
    report.add(Line::new("server memory, at most", server.memory("VmHWM"), "MB").goal(Goal::AtMost(80.0)));
}

async fn handfuls(world: &World, size: Size, report: &mut Report) {
    world.restock(size).await;
    let server = world.server(&[]);
    let most = usize::try_from(size.cards_a_group).unwrap() * 10 / 2 / 100 / 8;
    let load = load::run(&[server.address], 8, Until::Requests(most.min(60)), "<pin>", |number| {
        load::sale(group(number), 100)
    })
    .await;
    report.add(
        Line::new("quantity=100, 8 connections", load.per_second() * 100.0, "cards/s")
            .latency(load.percentile(0.5), load.percentile(0.99))
            .goal(Goal::AtLeast(20_000.0)),
    );
}

async fn refusals(world: &World, size: Size, report: &mut Report) {
    const WRONG: &str = "u=admin&id=101&quantity=1&hash=37086d860581fabc278413cd1a417d5c079f6eba";
    let server = world.server(&[("log", "error,mortise::server=info"), ("failed_attempts_max", "0")]);
    let servers = [server.address];
    let candidates = [
        Candidate::requests(&servers, CLIENTS, "ok", |_| load::get("/livez")),
        Candidate::requests(&servers, CLIENTS, "Incorrect hash", |_| load::post("card_from_group_sell", WRONG)),
        Candidate::requests(&servers, CLIENTS, "Incorrect hash", |_| {
            load::get(&format!("/billing/api/card_from_group_sell?{WRONG}"))
        }),
    ];
    let [livez, by_post, by_get] = rounds::take(world, size, candidates).await;
    for (how, refused) in [("POST", by_post), ("GET", by_get)] {
        report.add(
            Line::new(format!("refused hashes by {how}, 16 connections"), refused.rate(), "requests/s")
                .latency(refused.load.percentile(0.5), refused.load.percentile(0.99))
                .against("/livez", livez.rate())
                .goal(Goal::ShareAtLeast(0.8)),
        );
    }
}

async fn reads(world: &World, size: Size, report: &mut Report) {
    const TURN: Duration = Duration::from_secs(1);
    let server = world.server(&[]);
    let script = Script::card_group();
    let (mut http, mut pgbench) = (Load::default(), 0.0);
    let rounds = size.rounds / 4;
    for _ in 0..rounds {
        let request = |number| {
            let group = group(number);
            load::post("card_group_get", &format!("u=admin&id={group}&hash={}", hash(&group.to_string())))
        };
        http.add(load::run(&[server.address], CLIENTS, Until::Time(TURN), "<free_cards_size>", request).await);
        pgbench += script.run(world, CLIENTS, TURN) / rounds as f64;
    }
    report.add(
        Line::new("card_group_get, 16 connections", http.per_second(), "requests/s")
            .latency(http.percentile(0.5), http.percentile(0.99))
            .against("pgbench, the same select", pgbench)
            .goal(Goal::ShareAtLeast(0.8)),
    );
}

/// A group is sold down to its last cards; then these and the first ones of another, as large, are sold in turns.
async fn first_and_last(world: &World, size: Size, report: &mut Report) {
    const TURNS: usize = 5;
    let server = world.server(&[]);
    let part = size.sold_out / if size.full { 100 } else { 20 };
    let handfuls = usize::try_from((size.sold_out - part) / 1000 / 4).unwrap();
    load::run(&[server.address], 4, Until::Requests(handfuls), "<pin>", |_| load::sale(SOLD_OUT, 1000)).await;
    let each = Until::Requests(usize::try_from(part).unwrap() / TURNS / CLIENTS);
    let (mut first, mut last) = (Load::default(), Load::default());
    for _ in 0..TURNS {
        for (group, load) in [(FRESH, &mut first), (SOLD_OUT, &mut last)] {
            load.add(load::run(&[server.address], CLIENTS, each, "<pin>", move |_| load::sale(group, 1)).await);
        }
    }
    let what = if size.full { "the last 1 % of a million cards" } else { "the last 5 % of a hundred thousand cards" };
    report.add(
        Line::new(what, last.per_second(), "sales/s")
            .latency(last.percentile(0.5), last.percentile(0.99))
            .against("the first of another", first.per_second())
            .goal(Goal::ShareAtLeast(0.9)),
    );
}

async fn servers(world: &World, size: Size, report: &mut Report) {
    // As many database connections in all, however many servers share them; and few, since all of these stay open.
    let start = |count: usize, settings: &[(&str, &str)]| {
        let connections = (CLIENTS / 2 / count).to_string();
        let settings = [&[("database_connections", connections.as_str())], settings].concat();
        (0..count).map(|_| world.server(&settings)).collect::<Vec<_>>()
    };
    let running = [start(1, &[]), start(2, &[]), start(4, &[]), start(1, &[("sale_concurrency", "1000")])];
    let candidates = running.each_ref().map(|servers| {
        let addresses: Vec<_> = servers.iter().map(|server| server.address).collect();
        Candidate::requests(&addresses, CLIENTS, "<pin>", sale)
    });
    let [one, two, four, apart] = rounds::take(world, size, candidates).await;
    for (count, servers) in [(2, two), (4, four)] {
        let what = format!("sales through {count} servers");
        report.add(
            Line::new(&what, servers.rate(), "sales/s")
                .against("through one", one.rate())
                .goal(Goal::ShareAtLeast(0.95)),
        );
        // Two lines of one name would be one to whoever reads the JSON.
        report.add(
            Line::new(format!("{what}, once more"), servers.rate(), "sales/s")
                .against("through one, each by itself", apart.rate()),
        );
    }
    let twice: i64 = sqlx::query_scalar(
        "select count(*) from (select from payments where kind = 'sale' group by user_id having count(*) > 1) twice",
    )
    .fetch_one(&world.pool)
    .await
    .unwrap();
    report.add(Line::new("cards sold twice, in all", twice as f64, "").goal(Goal::AtMost(0.0)));
}

async fn connections(world: &World, size: Size, report: &mut Report) {
    const TURN: Duration = Duration::from_millis(1500);
    let server = world.server(&[]);
    for connections in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512] {
        world.restock(size).await;
        let load = load::run(&[server.address], connections, Until::Time(TURN), "<pin>", sale).await;
        report.add(
            Line::new(format!("sales, {connections} connections"), load.per_second(), "sales/s")
                .latency(load.percentile(0.5), load.percentile(0.99)),
        );
    }
    report.add(
        Line::new("server memory with 512 connections, at most", server.memory("VmHWM"), "MB").goal(Goal::AtMost(80.0)),
    );
}

async fn made_cards(world: &World, size: Size, report: &mut Report) {
    let server = world.server(&[]);
    let before = server.memory("VmHWM");
    let (from, till) = (500_000_000_000_u64, 500_000_000_000_u64 + u64::from(size.made) - 1);
    let form = format!(
        "u=admin&card_group_id={MADE}&cards_from={from}&cards_till={till}&hash={}",
        hash(&format!("{MADE}{from}{till}"))
    );
    // Before and after: whoever comes later finds larger indexes and an earlier one's pages still to be written.
    let mut bare = bare_cards(world, size).await / 2.0;
    let since = Instant::now();
    load::run(&[server.address], 1, Until::Requests(1), "Cards created", move |_| {
        load::post("calling_cards_create", &form)
    })
    .await;
    let made = since.elapsed().as_secs_f64();
    let memory = server.memory("VmHWM") - before;
    bare += bare_cards(world, size).await / 2.0;
    report.add(
        Line::new(format!("calling_cards_create of {} cards", size.made), made, "s")
            .against("a bare INSERT … SELECT", bare)
            .goal(Goal::ShareAtMost(1.5)),
    );
    report.add(Line::new("server memory that it took", memory, "MB").goal(Goal::AtMost(16.0)));
}

/// How many seconds one INSERT … SELECT of as many cards takes.
async fn bare_cards(world: &World, size: Size) -> f64 {
    let since = Instant::now();
    world.stock(FRESH, size.made).await;
    since.elapsed().as_secs_f64()
}

async fn lists(world: &World, size: Size, report: &mut Report) {
    world
        .sql(&format!(
            "insert into cardgroups (name, tax_id) select 'listed ' || i, 1 from generate_series(1, {}) i; analyze cardgroups",
            size.groups
        ))
        .await;
    world.sql("vacuum cards").await;
    let server = world.server(&[]);
    let form = format!("u=admin&hash={}", hash(""));
    let (_, groups, time) = load::download(server.address, "cc_groups_get", &form, b"<cc_group>").await;
    report.add(Line::new(format!("cc_groups_get of {groups} groups"), time.as_secs_f64(), "s"));
    let before = server.memory("VmHWM");
    let (bytes, cards, time) = load::download(server.address, "calling_cards_get", &form, b"<card>").await;
    let rate = cards as f64 / time.as_secs_f64();
    report.add(Line::new(format!("calling_cards_get of {cards} cards, {} MB", bytes / 1_000_000), rate, "cards/s"));
    report.add(Line::new("server memory that it took", server.memory("VmHWM") - before, "MB").goal(Goal::AtMost(16.0)));
}
