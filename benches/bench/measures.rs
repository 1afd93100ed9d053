//! What is measured, in order.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::Size;
use crate::load::{self, Load, Until, hash};
use crate::report::{Goal, Line, Report};
use crate::world::{FRESH, GROUPS, MADE, SOLD_OUT, Server, World};
use crate::yardstick::Script;

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

/// Groups are filled up between turns, so that none runs dry.
async fn restock(world: &World, size: Size) {
    for group in GROUPS..GROUPS + 10 {
        let free: i64 = sqlx::query_scalar("select count(*) from card_stock where cardgroup_id = $1")
            .bind(i32::try_from(group).unwrap())
            .fetch_one(&world.pool)
            .await
            .unwrap();
        let missing = i64::from(size.cards_a_group) - free;
        if missing > i64::from(size.cards_a_group) / 4 {
            world.stock(group, u32::try_from(missing).unwrap()).await;
        }
    }
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

async fn sales(world: &World, size: Size, report: &mut Report) {
    let server = world.server(&[]);
    report.add(Line::new("server memory at rest", server.memory("VmRSS"), "MB").goal(Goal::AtMost(25.0)));
    let sell = async |time| {
        load::run(&[server.address], CLIENTS, Until::Time(time), "<pin>", |number| load::sale(group(number), 1)).await
    };
    let sell_once = async |time| {
        load::run(&[server.address], CLIENTS, Until::Time(time), "<pin>", |number| load::sale_once(group(number))).await
    };
    let (same, bare, with_key) = (Script::sale(), Script::bare(), Script::sale_with_key());
    sell(Duration::from_secs(1)).await;
    same.run(world, CLIENTS, Duration::from_secs(1));
    let (mut http, mut same_rate, mut bare_rate) = (Load::default(), 0.0, 0.0);
    let (mut http_once, mut with_key_rate) = (Load::default(), 0.0);
    for _ in 0..size.rounds {
        restock(world, size).await;
        http.add(sell(size.turn).await);
        restock(world, size).await;
        same_rate += same.run(world, CLIENTS, size.turn) / size.rounds as f64;
        restock(world, size).await;
        bare_rate += bare.run(world, CLIENTS, size.turn) / size.rounds as f64;
        restock(world, size).await;
        http_once.add(sell_once(size.turn).await);
        restock(world, size).await;
        with_key_rate += with_key.run(world, CLIENTS, size.turn) / size.rounds as f64;
    }
    let (p50, p99) = (http.percentile(0.5), http.percentile(0.99));
    report.add(
        Line::new("card_from_group_sell, 16 connections", http.per_second(), "sales/s")
            .latency(p50, p99)
            .against("pgbench, the same statement", same_rate)
            .goal(Goal::ShareAtLeast(0.85)),
    );
    report.add(
        Line::new("that statement, by pgbench", same_rate, "sales/s")
            .against("pgbench, a bare sale", bare_rate)
            .goal(Goal::ShareAtLeast(0.65)),
    );
    report.add(
        Line::new("with an idempotency key", http_once.per_second(), "sales/s")
            .latency(http_once.percentile(0.5), http_once.percentile(0.99))
            .against("pgbench, the same statement", with_key_rate)
            .goal(Goal::ShareAtLeast(0.75)),
    );
    report.add(
        Line::new("p99 of these sales", p99.as_secs_f64() * 1000.0, "ms")
            .against("their p50", p50.as_secs_f64() * 1000.0)
            .goal(Goal::ShareAtMost(4.0)),
    );
    restock(world, size).await;
    let lone =
        load::run(&[server.address], 1, Until::Time(size.turn), "<pin>", |number| load::sale(group(number), 1)).await;
    let pgbench = same.run(world, 1, size.turn);
    report.add(
        Line::new("card_from_group_sell, one connection", lone.per_second(), "sales/s")
            .latency(lone.percentile(0.5), lone.percentile(0.99))
            .against("pgbench, the same statement", pgbench),
    );
    report.add(Line::new("server memory, at most", server.memory("VmHWM"), "MB").goal(Goal::AtMost(80.0)));
}

async fn handfuls(world: &World, size: Size, report: &mut Report) {
    restock(world, size).await;
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
    let server = world.server(&[("log", "error,mortise::server=info"), ("max_guesses", "0")]);
    let wrong =
        load::post("card_from_group_sell", "u=admin&id=101&quantity=1&hash=37086d860581fabc278413cd1a417d5c079f6eba");
    let alive = b"GET /livez HTTP/1.1\r\nHost: shop\r\n\r\n".to_vec();
    let (mut refused, mut livez) = (Load::default(), Load::default());
    for _ in 0..size.rounds {
        let (wrong, alive) = (wrong.clone(), alive.clone());
        let time = Until::Time(size.turn / 2);
        livez.add(load::run(&[server.address], CLIENTS, time, "ok", move |_| alive.clone()).await);
        refused.add(load::run(&[server.address], CLIENTS, time, "Incorrect hash", move |_| wrong.clone()).await);
    }
    report.add(
        Line::new("refused hashes, 16 connections", refused.per_second(), "requests/s")
            .latency(refused.percentile(0.5), refused.percentile(0.99))
            .against("/livez", livez.per_second())
            .goal(Goal::ShareAtLeast(0.8)),
    );
}

async fn reads(world: &World, size: Size, report: &mut Report) {
    let server = world.server(&[]);
    let script = Script::card_group();
    let (mut http, mut pgbench) = (Load::default(), 0.0);
    for _ in 0..size.rounds {
        let request = |number| {
            let group = group(number);
            load::post("card_group_get", &format!("u=admin&id={group}&hash={}", hash(&group.to_string())))
        };
        http.add(load::run(&[server.address], CLIENTS, Until::Time(size.turn / 2), "<free_cards_size>", request).await);
        pgbench += script.run(world, CLIENTS, size.turn / 2) / size.rounds as f64;
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
    // As many database connections in all, however many servers share them.
    let counts: &[usize] = if size.full { &[1, 2, 4] } else { &[1, 2] };
    let alike = |count: usize| {
        let connections = (CLIENTS / count).to_string();
        (0..count).map(|_| world.server(&[("database_connections", &connections)])).collect::<Vec<_>>()
    };
    let running: Vec<_> = counts.iter().map(|count| alike(*count)).collect();
    let mut rates = vec![0.0; counts.len()];
    for _ in 0..size.rounds {
        for (servers, rate) in running.iter().zip(&mut rates) {
            restock(world, size).await;
            let addresses: Vec<_> = servers.iter().map(|server| server.address).collect();
            let sale = |number| load::sale(group(number), 1);
            let load = load::run(&addresses, CLIENTS, Until::Time(size.turn), "<pin>", sale).await;
            *rate += load.per_second() / size.rounds as f64;
        }
    }
    for (count, rate) in counts.iter().zip(&rates).skip(1) {
        report.add(
            Line::new(format!("sales through {count} servers"), *rate, "sales/s")
                .against("through one", rates[0])
                .goal(Goal::ShareAtLeast(0.95)),
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
    let server = world.server(&[]);
    for connections in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512] {
        restock(world, size).await;
        let sale = |number| load::sale(group(number), 1);
        let load = load::run(&[server.address], connections, Until::Time(size.turn / 2), "<pin>", sale).await;
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
