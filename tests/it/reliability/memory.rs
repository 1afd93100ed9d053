//! The memory of the server process with large tables: replies and card ranges are far larger than the allowed growth.

use crate::harness::program::Program;
use crate::harness::{FIXTURE_SQL, hash, postgres, server_on_database};

/// The list of these cards is about 100 MB of XML.
const CARDS: usize = 200_000;
/// How much the peak memory may exceed that of the idle process, in kB.
const GROWTH_MAX_KB: usize = 24 * 1024;

#[tokio::test]
async fn creating_and_listing_200000_cards_needs_little_memory() {
    let database = postgres::create_database(FIXTURE_SQL).await;
    let server = server_on_database(&database, &[]).await;
    server.execute("update cardgroups set number_length = 8, pin_length = 9 where id = 11").await;
    let program = Program::start_on_database(&database, &[]).await;
    program.post_streaming("cc_groups_get", format!("u=admin&hash={}", hash("", "secret")), |_| {}).await;
    let idle_kb = program.peak_memory_kb();

    let (first, last) = (10_000_000, 10_000_000 + CARDS - 1);
    let request_hash = hash(&format!("11{first}{last}"), "secret");
    let form = format!("u=admin&card_group_id=11&cards_from={first}&cards_till={last}&hash={request_hash}");
    let mut reply = Vec::new();
    program.post_streaming("calling_cards_create", form, |chunk| reply.extend_from_slice(chunk)).await;
    let reply = String::from_utf8(reply).unwrap();
    assert!(reply.contains(&format!("Cards created: {CARDS}/{CARDS}")), "{reply}");
    let growth_kb = program.peak_memory_kb() - idle_kb;
    assert!(growth_kb < GROWTH_MAX_KB, "creating the cards took {growth_kb} kB");

    let (mut bytes, mut lines, mut end) = (0, 0, Vec::new());
    let form = format!("u=admin&number=1_______&hash={}", hash("", "secret"));
    let on_chunk = |chunk: &[u8]| {
        bytes += chunk.len();
        lines += chunk.iter().filter(|byte| **byte == b'\n').count();
        end = chunk[chunk.len().saturating_sub(20)..].to_vec();
    };
    program.post_streaming("calling_cards_get", form, on_chunk).await;
    assert!(bytes > 90_000_000, "{bytes}");
    // 14 lines for each card, and 5 for the XML declaration, the root element and the list.
    assert_eq!(lines, 14 * CARDS + 5);
    assert!(end.ends_with(b"  </cards>\n</page>\n"));
    let growth_kb = program.peak_memory_kb() - idle_kb;
    assert!(growth_kb < GROWTH_MAX_KB, "listing the cards took {growth_kb} kB");
}

/// A million rates: more than 800 MB of text.
const RATES: usize = 1_000_000;
/// How much the peak memory may exceed that of the idle process, in kB: 8 MB, and what a debug build needs.
const RATES_GROWTH_MAX_KB: usize = 12 * 1024;

#[tokio::test]
async fn listing_a_million_rates_needs_little_memory() {
    let database = postgres::create_database(FIXTURE_SQL).await;
    let server = server_on_database(&database, &[]).await;
    server
        .execute(&format!(
            "insert into tariffs (id, name, purpose, currency) values
                 (50, 'many', 'user_wholesale', 'USD'), (51, 'few', 'user', 'USD');
             insert into directions (name, code) values ('Somewhere', 'SOM');
             insert into destinations (id, prefix, direction_code, name)
             select i, (1000000 + i)::text, 'SOM', 'Destination ' || i from generate_series(1, {RATES}) i;
             insert into rates (id, tariff_id, destination_id) select i, 50, i from generate_series(1, {RATES}) i;
             insert into ratedetails (rate_id, rate) select i, 0.5 from generate_series(1, {RATES}) i;
             analyze"
        ))
        .await;
    let program = Program::start_on_database(&database, &[]).await;
    let form = |tariff: &str, test: &str| format!("u=admin&tariff_id={tariff}{test}&hash={}", hash(tariff, "secret"));
    for test in ["&test=1", ""] {
        program.post_streaming("tariff_rates_get", form("51", test), |_| {}).await;
    }
    let idle_kb = program.peak_memory_kb();
    for (test, bytes_min) in [("&test=1", 700_000_000), ("", 10_000_000)] {
        let mut bytes = 0;
        let on_chunk = |chunk: &[u8]| bytes += chunk.len();
        program.post_streaming("tariff_rates_get", form("50", test), on_chunk).await;
        assert!(bytes > bytes_min, "{bytes}");
        let growth_kb = program.peak_memory_kb() - idle_kb;
        assert!(growth_kb < RATES_GROWTH_MAX_KB, "{test}: listing the rates took {growth_kb} kB");
    }
}

/// Half of these destinations have a group; all rates of the others are listed in the reply. The document has 45 MB.
const DESTINATIONS: usize = 80_000;
/// The benchmark holds the goal of 24 MB. This build takes up to 27 MB if the processors are busy: more threads run.
const IMPORT_GROWTH_MAX_KB: usize = 36 * 1024;

#[tokio::test]
async fn importing_80000_rates_needs_little_memory() {
    let database = postgres::create_database(FIXTURE_SQL).await;
    let server = server_on_database(&database, &[]).await;
    server
        .execute(&format!(
            "insert into destinationgroups (name) select 'group ' || i from generate_series(1, {}) i",
            DESTINATIONS / 2
        ))
        .await;
    let program = Program::start_on_database(&database, &[]).await;
    let document = |count: usize| {
        let destinations = (1..=count).map(|index| {
            format!(
                "<destination>\n  <destination_group_name>group {index}</destination_group_name>\n  \
                 <destination_group_type>{}</destination_group_type>\n  <rates>\n    <rate_price>0.02</rate_price>\n    \
                 <rate_round_by>1</rate_round_by>\n    <rate_duration>-1</rate_duration>\n    \
                 <rate_type>minute</rate_type>\n    <rate_start_time>00:00:00</rate_start_time>\n    \
                 <rate_end_time>23:59:59</rate_end_time>\n    <day_type></day_type>\n  </rates>\n</destination>\n",
                // The list of the reply is larger than what stays in memory.
                fastrand::Rng::with_seed(index as u64).u128(..)
            )
        });
        let destinations: String = destinations.collect();
        format!("<tariff><id>0</id><name>{count}</name><destinations>{destinations}</destinations></tariff>")
    };
    let form = |destinations| format!("u=admin&hash={}&xml={}", hash("", "secret"), document(destinations));
    program.post_streaming("tariff_retail_import", form(10), |_| {}).await;
    let idle_kb = program.peak_memory_kb();
    let mut bytes = 0;
    program.post_streaming("tariff_retail_import", form(DESTINATIONS), |chunk| bytes += chunk.len()).await;
    assert!(bytes > 5_000_000, "{bytes}");
    server.assert_rows("select count(*) from aratedetails", &[&(10 + DESTINATIONS / 2).to_string()]).await;
    let growth_kb = program.peak_memory_kb() - idle_kb;
    assert!(growth_kb < IMPORT_GROWTH_MAX_KB, "the import took {growth_kb} kB");
}
