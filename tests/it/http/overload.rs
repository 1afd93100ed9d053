//! Thousands of connections and requests at once, and a process without free file descriptors.

use std::net::SocketAddr;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;

use super::sockets::{
    LIVEZ, SOLD, assert_serves, connect, connect_and_send, group_request, insert_cards, is_overloaded, lock_stock,
    read_reply, sale_request,
};
use crate::harness::program::Program;
use crate::harness::{FIXTURE_SQL, postgres, server_on_database};

/// 10,000 connections, or fewer if the system's limit of open files is lower.
#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_do_not_affect_other_clients() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    // The other tests need open files as well.
    let count = maximum.unwrap_or(u64::MAX).saturating_sub(2000).min(10_000);
    let database = postgres::create_database(FIXTURE_SQL).await;
    let program =
        Program::start_on_database(&database, &[("max_connections", "0"), ("keep_alive_timeout_ms", "0")]).await;
    assert_serves(program.address).await;
    let baseline = program.peak_memory_kb();
    let mut idle = Vec::new();
    for _ in 0..count {
        idle.push(connect_and_send(program.address, LIVEZ).await);
        if idle.len() % 1000 == 0 {
            assert_serves(program.address).await;
        }
    }
    for stream in &mut idle {
        assert!(read_reply(stream).await.starts_with("HTTP/1.1 200 "));
    }
    assert_serves(program.address).await;
    let growth = program.peak_memory_kb() - baseline;
    println!("{count} idle connections: {growth} kB over {baseline} kB");
    assert!(growth < 256 * 1024, "{count} connections take {growth} kB");
    // All connections are still open.
    for stream in &mut idle {
        stream.write_all(LIVEZ.as_bytes()).await.unwrap();
        assert!(read_reply(stream).await.starts_with("HTTP/1.1 200 "));
    }
}

/// Sends a request on `clients` connections at once; returns how many succeeded and how many were refused with 503.
async fn send_concurrently(address: SocketAddr, clients: usize, request: &str) -> (usize, usize) {
    let mut streams = Vec::new();
    for _ in 0..clients {
        streams.push(connect(address).await);
    }
    let mut tasks = JoinSet::new();
    for mut stream in streams {
        let request = request.to_owned();
        tasks.spawn(async move {
            stream.write_all(request.as_bytes()).await.unwrap();
            read_reply(&mut stream).await
        });
    }
    let replies = tasks.join_all().await;
    let refused = replies.iter().filter(|reply| is_overloaded(reply)).count();
    let other = replies.iter().find(|reply| !is_overloaded(reply) && !reply.starts_with("HTTP/1.1 200 "));
    assert_eq!(other, None);
    (clients - refused, refused)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_concurrent_sales_on_five_database_connections() {
    const CLIENTS: usize = 2000;
    let database = postgres::create_database(FIXTURE_SQL).await;
    let server = server_on_database(&database, &[]).await;
    insert_cards(&server, 3 * CLIENTS).await;
    let program = Program::start_on_database(
        &database,
        &[("database_connections", "5"), ("database_acquire_timeout_ms", "600000"), ("header_timeout_ms", "0")],
    )
    .await;
    assert_serves(program.address).await;
    let baseline = program.peak_memory_kb();
    let (answered, refused) = send_concurrently(program.address, CLIENTS, &sale_request()).await;
    println!("{answered} of {CLIENTS} sales were answered, {refused} refused");
    assert!(answered >= 1000, "{answered}");
    server.assert_rows(SOLD, &[&answered.to_string()]).await;
    assert_serves(program.address).await;
    drop(program);

    // While all five connections are blocked every request is refused, at once or after the acquire timeout.
    let program = Program::start_on_database(
        &database,
        &[("database_connections", "5"), ("database_acquire_timeout_ms", "2000"), ("header_timeout_ms", "0")],
    )
    .await;
    assert_serves(program.address).await;
    let lock = lock_stock(&server).await;
    assert_eq!(send_concurrently(program.address, CLIENTS, &sale_request()).await, (0, CLIENTS));
    lock.rollback().await.unwrap();
    server.assert_rows(SOLD, &[&answered.to_string()]).await;
    assert_serves(program.address).await;
    let growth = program.peak_memory_kb() - baseline;
    println!("{growth} kB over {baseline} kB");
    assert!(growth < 100 * 1024, "{growth} kB");
}

/// When the process has no file descriptors left, existing connections are served and new ones wait.
#[tokio::test(flavor = "multi_thread")]
async fn connections_wait_for_file_descriptors() {
    let database = postgres::create_database(FIXTURE_SQL).await;
    // With only one database connection, requests wait for it and open no further file descriptor.
    let program = Program::start_on_database(&database, &[("database_connections", "1")]).await;
    let pid = Some(Pid::from_child(&program.child));
    let mut keep_alive = connect_and_send(program.address, LIVEZ).await;
    read_reply(&mut keep_alive).await;
    assert_serves(program.address).await;
    let limit = getrlimit(Resource::Nofile);
    prlimit(pid, Resource::Nofile, Rlimit { current: Some(3), ..limit }).unwrap();
    let mut waiting = connect_and_send(program.address, LIVEZ).await;
    for _ in 0..20 {
        keep_alive.write_all(group_request().as_bytes()).await.unwrap();
        assert!(read_reply(&mut keep_alive).await.contains("ten dollars"));
    }
    prlimit(pid, Resource::Nofile, limit).unwrap();
    assert!(read_reply(&mut waiting).await.contains("ok\n"));
}
