//! Candidates that take turns: short ones, many, in an order drawn anew each time, so that the machine's moods fall on all alike.

use std::net::SocketAddr;
use std::time::Duration;

use crate::BenchSize;
use crate::fixtures::BenchEnvironment;
use crate::load::{self, LoadResult, StopCondition};
use crate::pgbench::Pgbench;

/// Something whose speed is measured.
pub struct Candidate {
    work: Workload,
    rates: Vec<f64>,
    /// What its requests came to.
    pub load: LoadResult,
}

enum Workload {
    Requests { servers: Vec<SocketAddr>, connections: usize, expected: &'static str, request: fn(usize) -> Vec<u8> },
    Pgbench(Pgbench),
}

impl Candidate {
    /// Requests over so many connections, spread over the servers; `request` makes the one with a number, and every reply must
    /// contain `expected`.
    pub fn requests(
        servers: &[SocketAddr],
        connections: usize,
        expected: &'static str,
        request: fn(usize) -> Vec<u8>,
    ) -> Self {
        Self::new(Workload::Requests { servers: servers.to_vec(), connections, expected, request })
    }

    /// pgbench, selling.
    pub fn pgbench(pgbench: Pgbench) -> Self {
        Self::new(Workload::Pgbench(pgbench))
    }

    fn new(work: Workload) -> Self {
        Self { work, rates: Vec::new(), load: LoadResult::default() }
    }

    /// How much it does a second, in the median of its turns.
    pub fn median_rate(&self) -> f64 {
        let mut rates = self.rates.clone();
        rates.sort_by(f64::total_cmp);
        let middle = rates.len() / 2;
        if rates.len().is_multiple_of(2) { f64::midpoint(rates[middle - 1], rates[middle]) } else { rates[middle] }
    }

    async fn run_once(&mut self, world: &BenchEnvironment, time: Duration) -> f64 {
        match &self.work {
            Workload::Pgbench(pgbench) => pgbench.run_for(world, time).await,
            Workload::Requests { servers, connections, expected, request } => {
                let load = load::run(servers, *connections, StopCondition::Time(time), expected, *request).await;
                let rate = load.requests_per_second();
                self.load.add(load);
                rate
            }
        }
    }
}

/// How long each runs before its turns count: connections are made, statements planned, memory filled.
const WARMUP: Duration = Duration::from_secs(2);

/// As many turns for each as `size` says.
pub async fn run_rounds<const N: usize>(
    world: &BenchEnvironment,
    size: BenchSize,
    mut candidates: [Candidate; N],
) -> [Candidate; N] {
    for candidate in &mut candidates {
        candidate.run_once(world, WARMUP).await;
        candidate.load = LoadResult::default();
    }
    for _ in 0..size.rounds {
        world.restock(size).await;
        let mut order: [usize; N] = std::array::from_fn(|place| place);
        fastrand::shuffle(&mut order);
        for place in order {
            let rate = candidates[place].run_once(world, size.run_duration).await;
            candidates[place].rates.push(rate);
        }
    }
    candidates
}
