//! The crash tests. Clients send requests and record the replies, an operator voids and replaces cards, a fault is
//! injected meanwhile, and then an audit compares the database with the record. `scripts/chaos` runs the long form. All
//! random values come from one seed, which is printed: `CHAOS_SEED` repeats the requests and faults of a run, as far as
//! timing allows.

mod audit;
mod clients;
mod environment;
mod faults;
mod operator;

use std::collections::BTreeMap;
use std::time::Duration;

use audit::AuditBaseline;
use clients::{Clients, RequestCounts};
use environment::TestEnvironment;
use faults::Fault;
use operator::Operator;

/// A round that takes longer fails.
const ROUND_TIMEOUT: Duration = Duration::from_secs(120);

fn env_number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect(name))
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_lose_no_change_and_make_none_twice() {
    let seed = env_number("CHAOS_SEED").unwrap_or_else(|| fastrand::u64(..));
    let rounds = env_number("CHAOS_ROUNDS").unwrap_or(Fault::ALL.len() as u64);
    println!("CHAOS_SEED={seed} CHAOS_ROUNDS={rounds}");
    let mut random = fastrand::Rng::with_seed(seed);
    let environments =
        [TestEnvironment::with_managed_postgres().await, TestEnvironment::with_external_postgres().await];
    let mut totals: BTreeMap<Fault, (usize, RequestCounts)> = BTreeMap::new();
    for round in 0..rounds {
        // The first rounds inject each fault once, the others a random one.
        let fault = match Fault::ALL.get(round as usize) {
            Some(fault) => *fault,
            None => Fault::ALL[random.usize(..Fault::ALL.len())],
        };
        let environment = &environments[usize::from(!fault.targets_managed_postgres())];
        if !fault.is_supported(environment) {
            println!("round {round}: {fault:?} is not possible on this machine");
            continue;
        }
        let started = std::time::Instant::now();
        let run = self::run_round(environment, fault, round, random.fork());
        let counts = tokio::time::timeout(ROUND_TIMEOUT, run)
            .await
            .unwrap_or_else(|_| panic!("seed {seed}, round {round}, {fault:?}: timeout\n{}", environment.server_log()));
        println!("round {round}: {fault:?}, {} requests, {:.1} s", counts.requests, started.elapsed().as_secs_f32());
        let (fault_rounds, fault_counts) = totals.entry(fault).or_default();
        *fault_rounds += 1;
        fault_counts.add(counts);
    }
    print_report(&totals);
    for environment in environments {
        environment.stop().await;
    }
}

async fn run_round(
    environment: &TestEnvironment,
    fault: Fault,
    round: u64,
    mut random: fastrand::Rng,
) -> RequestCounts {
    environment.restock().await;
    let baseline = AuditBaseline::capture(environment).await;
    let clients = Clients::start(environment, round, &mut random);
    let operator = Operator::start(environment, random.fork());
    clients.wait_for_acknowledged(random.usize(10..100)).await;
    fault.inject(environment, &clients, &mut random).await;
    clients.wait_for_acknowledged(random.usize(10..100)).await;
    let request_log = clients.finish().await;
    let changes = operator.finish().await;
    baseline.verify(environment, &request_log, &changes).await;
    clients::replay_requests(environment, &request_log, &mut random).await;
    audit::assert_mails_match_sales(environment, &request_log, fault.kills_servers()).await;
    environment.assert_no_panic();
    request_log.counts()
}

fn print_report(totals: &BTreeMap<Fault, (usize, RequestCounts)>) {
    println!("| fault | rounds | requests | acknowledged | outcome unknown at first | retries | violations |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: |");
    let mut total = (0, RequestCounts::default());
    let print_row = |name: &str, (rounds, counts): &(usize, RequestCounts)| {
        let RequestCounts { requests, acknowledged, unknown_at_first, retries } = counts;
        println!("| {name} | {rounds} | {requests} | {acknowledged} | {unknown_at_first} | {retries} | 0 |");
    };
    for (fault, fault_total) in totals {
        print_row(&format!("{fault:?}"), fault_total);
        total.0 += fault_total.0;
        total.1.add(fault_total.1);
    }
    print_row("all", &total);
}
