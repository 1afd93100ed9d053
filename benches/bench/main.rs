//! The benchmark: compares the server with pgbench. The server gets signed requests over loopback; pgbench runs the
//! same SQL on the same database, in alternating rounds. Ratios are more reliable than absolute rates. `scripts/bench`
//! runs it. A slow result is not a failure.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a benchmark stops at the first error")]
#![expect(clippy::float_arithmetic, reason = "rates and ratios, not money")]

mod console;
mod fixtures;
mod imports;
mod load;
mod measures;
mod mor_import;
mod pgbench;
mod rates;
mod report;
mod rounds;

use std::str::FromStr;
use std::time::Duration;

use strum::VariantNames;

use crate::measures::Section;

/// The size of a benchmark run.
#[derive(Debug, Clone, Copy)]
pub struct BenchSize {
    /// The number of rounds. Each candidate runs once in a round.
    pub rounds: usize,
    /// The duration of one run of a candidate.
    pub run_duration: Duration,
    /// Cards in each of the ten groups for sales.
    pub cards_per_group: u32,
    /// Cards in the group that is sold out, and in the unsold one that is compared with it.
    pub sold_out_cards: u32,
    /// Cards created by one request.
    pub created_cards: u32,
    /// Rates in an imported tariff.
    pub imported_rates: u32,
    /// Card groups in the list.
    pub listed_groups: u32,
    /// Rates of the largest tariff.
    pub rates: u32,
    /// Cards for the pages of the console.
    pub console_cards: u32,
    /// Cards of an imported database of MOR.
    pub mor_cards: u32,
    /// Whether the measurements that take long are made too.
    pub is_full: bool,
}

const QUICK: BenchSize = BenchSize {
    rounds: 24,
    run_duration: Duration::from_millis(400),
    cards_per_group: 20_000,
    sold_out_cards: 100_000,
    created_cards: 100_000,
    imported_rates: 20_000,
    listed_groups: 10_000,
    rates: 100_000,
    console_cards: 200_000,
    mor_cards: 0,
    is_full: false,
};
const FULL: BenchSize = BenchSize {
    rounds: 80,
    run_duration: Duration::from_millis(500),
    cards_per_group: 100_000,
    sold_out_cards: 1_000_000,
    created_cards: 1_000_000,
    imported_rates: 172_000,
    listed_groups: 10_000,
    rates: 1_000_000,
    console_cards: 10_000_000,
    mor_cards: 1_000_000,
    is_full: true,
};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let mut size = FULL;
    let (mut json_path, mut only) = (None, None);
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--quick" => size = QUICK,
            "--json" => json_path = arguments.next().cloned(),
            "--only" => {
                let name = arguments.next().map_or("", String::as_str);
                let section = Section::from_str(name);
                only = Some(section.unwrap_or_else(|_| panic!("--only takes one of {}", Section::VARIANTS.join(", "))));
            }
            "--mor-cards" => size.mor_cards = arguments.next().and_then(|cards| cards.parse().ok()).unwrap(),
            "--console-cards" => size.console_cards = arguments.next().and_then(|cards| cards.parse().ok()).unwrap(),
            other => panic!(
                "unknown option {other}; the options are --quick, --only SECTION, --mor-cards COUNT, \
                 --console-cards COUNT and --json FILE"
            ),
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let report = runtime.block_on(measures::run_all(size, only));
    report.print();
    if let Some(path) = json_path {
        std::fs::write(path, report.to_json()).unwrap();
    }
}
