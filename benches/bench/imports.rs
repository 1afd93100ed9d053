//! The measurements of `tariff_retail_import` and of `mortise cards import`.

use std::fmt::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::BenchSize;
use crate::fixtures::{BenchEnvironment, ServerProcess, UNSOLD_GROUP_ID, peak_memory_mb};
use crate::load::{self, request_hash};
use crate::report::{Goal, Measurement, Report};

/// The group of imported cards.
const CARD_GROUP_ID: u32 = 301;

pub async fn measure(environment: &BenchEnvironment, size: BenchSize, report: &mut Report) {
    measure_tariffs(environment, size, report).await;
    measure_cards(environment, size.created_cards, report).await;
}

/// Imports a file with this number of cards.
async fn measure_cards(environment: &BenchEnvironment, cards: u32, report: &mut Report) {
    environment
        .execute(&format!(
            "insert into cardgroups (id, name, price, tax_id, tell_balance_in_currency, number_length, pin_length)
             values ({CARD_GROUP_ID}, 'imported', 8.4, 1, 'USD', 12, 15)"
        ))
        .await;
    let file = environment.scratch_dir().join("cards.csv");
    let mut lines = "number,pin,balance,serial\n".to_owned();
    for number in 1..=u64::from(cards) {
        let _ = writeln!(lines, "{},{:015},8.4,S-{number}", 700_000_000_000 + number, number * 982_451_653);
    }
    std::fs::write(&file, lines).unwrap();
    let mut bare_insert = time_bare_card_insert(environment, cards).await / 2.0;
    let mut command = environment.command();
    command.args(["cards", "import", "--group", &CARD_GROUP_ID.to_string()]).arg(&file);
    let start = Instant::now();
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    let mut memory = 0.0_f64;
    let status = loop {
        memory = memory.max(peak_memory_mb(&child));
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    let seconds = start.elapsed().as_secs_f64();
    assert!(status.success());
    bare_insert += time_bare_card_insert(environment, cards).await / 2.0;
    report.add(
        Measurement::new(format!("mortise cards import, {cards} cards"), seconds, "s")
            .with_baseline("bare INSERT … SELECT", bare_insert),
    );
    report.add(Measurement::new("memory of this command", memory, "MB").with_goal(Goal::AtMost(64.0)));
}

/// The duration of one INSERT … SELECT of the same number of cards, in seconds.
async fn time_bare_card_insert(environment: &BenchEnvironment, cards: u32) -> f64 {
    let start = Instant::now();
    environment.add_cards(UNSOLD_GROUP_ID, cards).await;
    start.elapsed().as_secs_f64()
}

/// Imports a tariff with a rate for each of many destination groups, into a new tariff and then again.
async fn measure_tariffs(environment: &BenchEnvironment, size: BenchSize, report: &mut Report) {
    let rates = size.imported_rates;
    environment
        .execute(&format!(
            "insert into destinationgroups (name) select 'Destination group ' || i from generate_series(1, {rates}) i;
             analyze destinationgroups"
        ))
        .await;
    let server = environment.start_server(&[]);
    let before = server.memory_mb("VmHWM");
    // The mean of one insert before and one after, as for calling_cards_create.
    let mut bare_insert = time_bare_insert(environment, -1).await / 2.0;
    let first = time_import(&server, 0, rates).await;
    let memory = server.memory_mb("VmHWM") - before;
    let id = sqlx::query_scalar("select max(id) from tariffs").fetch_one(&environment.pool).await.unwrap();
    let again = time_import(&server, id, rates).await;
    bare_insert += time_bare_insert(environment, -2).await / 2.0;
    report.add(
        Measurement::new(format!("tariff_retail_import, {rates} rates into a new tariff"), first, "s")
            .with_baseline("bare INSERT … SELECT into both tables", bare_insert)
            .with_goal(Goal::RatioAtMost(5.0)),
    );
    report.add(
        Measurement::new(format!("tariff_retail_import, {rates} rates that the tariff has"), again, "s")
            .with_baseline("into a new tariff", first)
            .with_goal(Goal::RatioAtMost(1.0)),
    );
    report.add(Measurement::new("server memory for tariff_retail_import", memory, "MB").with_goal(Goal::AtMost(24.0)));
}

/// The duration of one INSERT … SELECT of a rate for each group, in seconds.
async fn time_bare_insert(environment: &BenchEnvironment, tariff_id: i64) -> f64 {
    let start = Instant::now();
    environment
        .execute(&format!(
            "with new_rates as (
                 insert into rates (tariff_id, destination_id, destinationgroup_id)
                 select {tariff_id}, 0, id from destinationgroups order by id returning id)
             insert into aratedetails (rate_id, \"from\", duration, artype, round, price, start_time, end_time, daytype)
             select id, 1, -1, 'minute', 60, 0.02, '00:00:00', '23:59:59', '' from new_rates"
        ))
        .await;
    start.elapsed().as_secs_f64()
}

/// The duration of one import in a form, in seconds.
async fn time_import(server: &ServerProcess, id: i64, rates: u32) -> f64 {
    let mut document = format!("<tariff>\n  <id>{id}</id>\n  <name>Imported</name>\n  <destinations>\n");
    for number in 1..=rates {
        let _ = write!(
            document,
            "    <destination>\n      <destination_group_name>Destination group {number}</destination_group_name>\n      \
             <rates>\n        <rate_price>0.02</rate_price>\n        <rate_round_by>60</rate_round_by>\n        \
             <rate_duration>-1</rate_duration>\n        <rate_type>minute</rate_type>\n        \
             <rate_start_time>00:00:00</rate_start_time>\n        <rate_end_time>23:59:59</rate_end_time>\n        \
             <day_type></day_type>\n      </rates>\n    </destination>\n"
        );
    }
    document.push_str("  </destinations>\n</tariff>\n");
    let document = document.replace('%', "%25").replace(' ', "+").replace('<', "%3C").replace('>', "%3E");
    let form = format!("u=admin&hash={}&xml={document}", request_hash(""));
    let start = Instant::now();
    let (_, lists, _) = load::download(server.address, "tariff_retail_import", &form, b"<bad_destinations>").await;
    assert_eq!(lists, 1);
    start.elapsed().as_secs_f64()
}
