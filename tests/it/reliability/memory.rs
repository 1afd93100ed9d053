//! Large tables through the program itself, whose memory is watched: replies and ranges far larger than what it may hold.

use crate::harness::program::Program;
use crate::harness::{FIXTURE_SQL, hash, postgres, server_on_database};

/// The reply with all of them is a hundred megabytes.
const CARDS: usize = 200_000;
/// What the program may hold beyond what it holds at rest, in kilobytes.
const ALLOWED: usize = 24 * 1024;

#[tokio::test]
async fn cards_by_the_hundred_thousand_are_made_and_listed_in_little_memory() {
    let database = postgres::create_database(FIXTURE_SQL).await;
    let server = server_on_database(&database, &[]).await;
    server.execute("update cardgroups set number_length = 8, pin_length = 9 where id = 11").await;
    let program = Program::start_on_database(&database, &[]).await;
    program.post_streaming("cc_groups_get", format!("u=admin&hash={}", hash("", "secret")), |_| {}).await;
    let at_rest = program.peak_memory_kb();

    let (from, till) = (10_000_000, 10_000_000 + CARDS - 1);
    let hashed = hash(&format!("11{from}{till}"), "secret");
    let form = format!("u=admin&card_group_id=11&cards_from={from}&cards_till={till}&hash={hashed}");
    let mut reply = Vec::new();
    program.post_streaming("calling_cards_create", form, |chunk| reply.extend_from_slice(chunk)).await;
    let reply = String::from_utf8(reply).unwrap();
    assert!(reply.contains(&format!("Cards created: {CARDS}/{CARDS}")), "{reply}");
    let grown = program.peak_memory_kb() - at_rest;
    assert!(grown < ALLOWED, "making them took {grown} kB");

    let (mut bytes, mut lines, mut end) = (0, 0, Vec::new());
    let form = format!("u=admin&number=1_______&hash={}", hash("", "secret"));
    let look = |chunk: &[u8]| {
        bytes += chunk.len();
        lines += chunk.iter().filter(|byte| **byte == b'\n').count();
        end = chunk[chunk.len().saturating_sub(20)..].to_vec();
    };
    program.post_streaming("calling_cards_get", form, look).await;
    assert!(bytes > 90_000_000, "{bytes}");
    // Fourteen lines a card, and the declaration, the root's and the list's.
    assert_eq!(lines, 14 * CARDS + 5);
    assert!(end.ends_with(b"  </cards>\n</page>\n"));
    let grown = program.peak_memory_kb() - at_rest;
    assert!(grown < ALLOWED, "listing them took {grown} kB");
}
