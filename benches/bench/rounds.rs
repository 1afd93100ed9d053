//! Runs candidates in many short rounds, in random order within each round, so that fluctuations of the machine affect
//! all candidates equally.

use std::net::SocketAddr;
use std::time::Duration;

use crate::BenchSize;
use crate::fixtures::BenchEnvironment;
use crate::load::{self, LoadResult, StopCondition};
use crate::pgbench::Pgbench;

/// A workload whose rate is measured.
pub struct Candidate {
    workload: Workload,
    /// One for each round, per second.
    rates: Vec<f64>,
    /// The sum of all rounds; empty for pgbench.
    pub load: LoadResult,
}

enum Workload {
    Requests { servers: Vec<SocketAddr>, connections: usize, expected: &'static str, request: fn(usize) -> Vec<u8> },
    Pgbench(Pgbench),
}

impl Candidate {
    /// A candidate that sends requests, as [`load::run`] does.
    pub fn requests(
        servers: &[SocketAddr],
        connections: usize,
        expected: &'static str,
        request: fn(usize) -> Vec<u8>,
    ) -> Self {
        Self::new(Workload::Requests { servers: servers.to_vec(), connections, expected, request })
    }

    /// A candidate that sells by pgbench.
    pub fn pgbench(pgbench: Pgbench) -> Self {
        Self::new(Workload::Pgbench(pgbench))
    }

    fn new(workload: Workload) -> Self {
        Self { workload, rates: Vec::new(), load: LoadResult::default() }
    }

    /// The median of the rates of all rounds, per second.
    pub fn median_rate(&self) -> f64 {
        let mut rates = self.rates.clone();
        rates.sort_by(f64::total_cmp);
        let middle = rates.len() / 2;
        if rates.len().is_multiple_of(2) { f64::midpoint(rates[middle - 1], rates[middle]) } else { rates[middle] }
    }

    async fn run_once(&mut self, environment: &BenchEnvironment, duration: Duration) -> f64 {
        match &self.workload {
            Workload::Pgbench(pgbench) => pgbench.run_for(environment, duration).await,
            Workload::Requests { servers, connections, expected, request } => {
                let load = load::run(servers, *connections, StopCondition::Time(duration), expected, *request).await;
                let rate = load.requests_per_second();
                self.load.add(load);
                rate
            }
        }
    }
}

/// How long each candidate runs before the first round: it opens connections, plans statements and fills caches.
const WARMUP: Duration = Duration::from_secs(2);

/// Warms up the candidates, then runs `size.rounds` rounds.
pub async fn run_rounds<const N: usize>(
    environment: &BenchEnvironment,
    size: BenchSize,
    mut candidates: [Candidate; N],
) -> [Candidate; N] {
    for candidate in &mut candidates {
        candidate.run_once(environment, WARMUP).await;
        candidate.load = LoadResult::default();
    }
    for _ in 0..size.rounds {
        environment.restock(size).await;
        let mut order: [usize; N] = std::array::from_fn(|index| index);
        fastrand::shuffle(&mut order);
        for index in order {
            let rate = candidates[index].run_once(environment, size.run_duration).await;
            candidates[index].rates.push(rate);
        }
    }
    candidates
}
