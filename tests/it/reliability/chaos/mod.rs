//! The crash suite: clients that remember what they were told, faults in the midst of their work, then an auditor who asks the
//! database itself. `scripts/chaos` runs the long form. Everything random comes of one seed, which is printed: with
//! `CHAOS_SEED` a run makes the same requests and strikes in the same ways again, as far as time lets it.

mod audit;
mod clients;
mod faults;
mod world;

use std::collections::BTreeMap;
use std::time::Duration;

use audit::AuditBaseline;
use clients::{Clients, RequestCounts};
use faults::Fault;
use world::TestEnvironment;

/// A round that doesn't end is a violation too.
const ROUND_TIMEOUT: Duration = Duration::from_secs(120);

fn env_number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect(name))
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_and_nothing_happens_twice_whatever_is_killed_when() {
    let seed = env_number("CHAOS_SEED").unwrap_or_else(|| fastrand::u64(..));
    let rounds = env_number("CHAOS_ROUNDS").unwrap_or(Fault::ALL.len() as u64);
    println!("CHAOS_SEED={seed} CHAOS_ROUNDS={rounds}");
    let mut random = fastrand::Rng::with_seed(seed);
    let worlds = [TestEnvironment::with_managed_postgres().await, TestEnvironment::with_external_postgres().await];
    let mut sums: BTreeMap<Fault, (usize, RequestCounts)> = BTreeMap::new();
    for round in 0..rounds {
        // Each kind in turn, so that none is left out, and in the rest of the run at random.
        let fault = match Fault::ALL.get(round as usize) {
            Some(fault) => *fault,
            None => Fault::ALL[random.usize(..Fault::ALL.len())],
        };
        let world = &worlds[usize::from(!fault.targets_managed_postgres())];
        if !fault.is_supported(world) {
            println!("round {round}: {fault:?} can't be made on this machine");
            continue;
        }
        let since = std::time::Instant::now();
        let strike = self::run_round(world, fault, round, random.fork());
        let figures = tokio::time::timeout(ROUND_TIMEOUT, strike).await.unwrap_or_else(|_| {
            panic!("seed {seed}, round {round}, {fault:?}: it doesn't end\n{}", world.server_log())
        });
        println!("round {round}: {fault:?}, {} requests, {:.1} s", figures.requests, since.elapsed().as_secs_f32());
        let sum = sums.entry(fault).or_default();
        sum.0 += 1;
        sum.1.add(figures);
    }
    print_report(&sums);
    for world in worlds {
        world.stop().await;
    }
}

async fn run_round(world: &TestEnvironment, fault: Fault, round: u64, mut random: fastrand::Rng) -> RequestCounts {
    world.restock().await;
    let books = AuditBaseline::capture(world).await;
    let clients = Clients::start(world, round, &mut random);
    clients.wait_for_acknowledged(random.usize(10..100)).await;
    fault.inject(world, &clients, &mut random).await;
    clients.wait_for_acknowledged(random.usize(10..100)).await;
    let remembered = clients.finish().await;
    books.verify(world, &remembered).await;
    clients::replay_requests(world, &remembered, &mut random).await;
    audit::assert_mails_match_sales(world, &remembered, fault.kills_servers()).await;
    world.assert_no_panic();
    remembered.counts()
}

fn print_report(sums: &BTreeMap<Fault, (usize, RequestCounts)>) {
    println!("| fault | rounds | requests | acknowledged | unknown at first | sent again | violations |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: |");
    let mut all = (0, RequestCounts::default());
    let line = |name: &str, (rounds, figures): &(usize, RequestCounts)| {
        let RequestCounts { requests, acknowledged, unknown_at_first: unknown, retries: again } = figures;
        println!("| {name} | {rounds} | {requests} | {acknowledged} | {unknown} | {again} | 0 |");
    };
    for (fault, sum) in sums {
        line(&format!("{fault:?}"), sum);
        all.0 += sum.0;
        all.1.add(sum.1);
    }
    line("all", &all);
}
