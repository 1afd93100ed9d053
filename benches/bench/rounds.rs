//! Candidates that take turns: short ones, many, in an order drawn anew each time, so that the machine's moods fall on all alike.

use std::net::SocketAddr;
use std::time::Duration;

use crate::Size;
use crate::fixtures::World;
use crate::load::{self, Load, Until};
use crate::pgbench::Pgbench;

/// Something whose speed is measured.
pub struct Candidate {
    work: Work,
    rates: Vec<f64>,
    /// What its requests came to.
    pub load: Load,
}

enum Work {
    Requests { servers: Vec<SocketAddr>, connections: usize, expected: &'static str, request: fn(usize) -> Vec<u8> },
    Sales(Pgbench),
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
        Self::new(Work::Requests { servers: servers.to_vec(), connections, expected, request })
    }

    /// pgbench, selling.
    pub fn pgbench(pgbench: Pgbench) -> Self {
        Self::new(Work::Sales(pgbench))
    }

    fn new(work: Work) -> Self {
        Self { work, rates: Vec::new(), load: Load::default() }
    }

    /// How much it does a second, in the median of its turns.
    pub fn rate(&self) -> f64 {
        let mut rates = self.rates.clone();
        rates.sort_by(f64::total_cmp);
        let middle = rates.len() / 2;
        if rates.len().is_multiple_of(2) { f64::midpoint(rates[middle - 1], rates[middle]) } else { rates[middle] }
    }

    async fn turn(&mut self, world: &World, time: Duration) -> f64 {
        match &self.work {
            Work::Sales(pgbench) => pgbench.turn(world, time).await,
            Work::Requests { servers, connections, expected, request } => {
                let load = load::run(servers, *connections, Until::Time(time), expected, *request).await;
                let rate = load.per_second();
                self.load.add(load);
                rate
            }
        }
    }
}

/// How long each runs before its turns count: connections are made, statements planned, memory filled.
const BEFORE: Duration = Duration::from_secs(2);

/// As many turns for each as `size` says.
pub async fn take<const N: usize>(world: &World, size: Size, mut candidates: [Candidate; N]) -> [Candidate; N] {
    for candidate in &mut candidates {
        candidate.turn(world, BEFORE).await;
        candidate.load = Load::default();
    }
    for _ in 0..size.rounds {
        world.restock(size).await;
        let mut order: [usize; N] = std::array::from_fn(|place| place);
        fastrand::shuffle(&mut order);
        for place in order {
            let rate = candidates[place].turn(world, size.turn).await;
            candidates[place].rates.push(rate);
        }
    }
    candidates
}
