//! How fast the server is, as ratios in one run: real signed requests over loopback against pgbench doing the same SQL on the
//! same database, in turns. `scripts/bench` runs it; nothing fails for being slow.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a benchmark that can't go on stops")]
#![expect(clippy::float_arithmetic, reason = "rates and ratios, not money")]

mod fixtures;
mod load;
mod measures;
mod pgbench;
mod report;
mod rounds;

use std::time::Duration;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct BenchSize {
    /// How often the candidates take turns.
    pub rounds: usize,
    /// How long a turn is.
    pub run_duration: Duration,
    /// Cards in each of the ten groups that are sold from.
    pub cards_per_group: u32,
    /// Cards in the group that is sold out.
    pub sold_out_cards: u32,
    /// Cards that are made in one call.
    pub created_cards: u32,
    /// Card groups that are listed.
    pub listed_groups: u32,
    /// Everything that takes long besides.
    pub is_full: bool,
}

const QUICK: BenchSize = BenchSize {
    rounds: 24,
    run_duration: Duration::from_millis(400),
    cards_per_group: 20_000,
    sold_out_cards: 100_000,
    created_cards: 100_000,
    listed_groups: 10_000,
    is_full: false,
};
const FULL: BenchSize = BenchSize {
    rounds: 80,
    run_duration: Duration::from_millis(500),
    cards_per_group: 100_000,
    sold_out_cards: 1_000_000,
    created_cards: 1_000_000,
    listed_groups: 10_000,
    is_full: true,
};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let mut size = FULL;
    let mut json = None;
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--quick" => size = QUICK,
            "--json" => json = rest.next().cloned(),
            other => panic!("unknown option {other}: there are --quick and --json FILE"),
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let report = runtime.block_on(measures::run_all(size));
    report.print();
    if let Some(path) = json {
        std::fs::write(path, report.to_json()).unwrap();
    }
}
