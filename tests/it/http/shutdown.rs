//! Graceful shutdown: requests that arrived before the stop are completed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::sockets::{
    LIVEZ, SOLD, connect, connect_and_send, group_request, insert_cards, lock_stock, read_reply, read_until_closed,
    sale_request,
};
use crate::harness::program::Program;
use crate::harness::{FIXTURE_SQL, Server, postgres, server_on_database, server_with_settings};

/// Serves on a free port until the token is cancelled.
async fn serve_until_stopped(server: &Server) -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    (address, stop.clone(), tokio::spawn(server.clone().serve(listener, stop)))
}

/// Every request that was sent before the stop gets its reply, on new and on existing connections.
#[tokio::test(flavor = "multi_thread")]
async fn stop_under_load_completes_all_requests() {
    let server = server_with_settings(&[
        ("cache", "on"),
        ("shutdown_timeout_ms", "60000"),
        ("database_acquire_timeout_ms", "60000"),
    ])
    .await;
    insert_cards(&server, 3000).await;
    let (address, stop, serving) = serve_until_stopped(&server).await;
    let stopping = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for client in 0..40 {
        let stopping = stopping.clone();
        clients.spawn(async move {
            let (mut stream, mut answered) = (connect(address).await, 0);
            loop {
                if client % 2 == 0 && answered > 0 {
                    match TcpStream::connect(address).await {
                        Ok(new) => stream = new,
                        Err(_) => return answered,
                    }
                }
                let sent = stream.write_all(sale_request().as_bytes()).await.is_ok();
                let sent_before_stop = sent && !stopping.load(Ordering::SeqCst);
                let reply = read_reply(&mut stream).await;
                if reply.contains("</page>") {
                    assert!(reply.contains("<number>"), "{reply}");
                    answered += 1;
                } else {
                    assert!(!sent_before_stop && reply.is_empty(), "sent before the stop, reply {reply:?}");
                    return answered;
                }
            }
        });
    }
    while server.rows(SOLD).await[0].parse::<usize>().unwrap() < 200 {}
    stopping.store(true, Ordering::SeqCst);
    stop.cancel();
    serving.await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
    let answered: usize = clients.join_all().await.into_iter().sum();
    println!("{answered} sales answered");
    server.assert_rows(SOLD, &[&answered.to_string()]).await;
}

/// At the stop, one request is on a connection that is not accepted yet, and another one is incomplete.
#[tokio::test(flavor = "multi_thread")]
async fn requests_that_arrived_before_the_stop_are_completed() {
    let server = server_with_settings(&[("shutdown_timeout_ms", "60000"), ("header_timeout_ms", "60000")]).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let request = group_request();
    let (start, end) = request.split_at(30);
    let (mut complete, mut partial, mut silent) =
        (connect_and_send(address, &request).await, connect_and_send(address, start).await, connect(address).await);
    let stop = CancellationToken::new();
    stop.cancel();
    let serving = tokio::spawn(server.serve(listener, stop));
    assert_eq!(read_until_closed(&mut silent).await, "");
    partial.write_all(end.as_bytes()).await.unwrap();
    for stream in [&mut complete, &mut partial] {
        let reply = read_until_closed(stream).await;
        assert!(reply.contains("ten dollars") && reply.contains("\r\nconnection: close\r\n"), "{reply}");
    }
    serving.await.unwrap();
}

/// Part of a request has arrived on a keep-alive connection, which hyper still treats as idle.
#[tokio::test(flavor = "multi_thread")]
async fn partial_request_before_the_stop_is_completed() {
    let server = server_with_settings(&[("shutdown_timeout_ms", "60000")]).await;
    let (address, stop, serving) = serve_until_stopped(&server).await;
    let request = group_request();
    let (start, end) = request.split_at(30);
    let (mut partial, mut idle) = (connect_and_send(address, LIVEZ).await, connect_and_send(address, LIVEZ).await);
    read_reply(&mut partial).await;
    read_reply(&mut idle).await;
    partial.write_all(start.as_bytes()).await.unwrap();
    stop.cancel();
    // An idle connection is closed at once.
    assert_eq!(read_until_closed(&mut idle).await, "");
    partial.write_all(end.as_bytes()).await.unwrap();
    let reply = read_until_closed(&mut partial).await;
    assert!(reply.contains("ten dollars") && reply.contains("\r\nconnection: close\r\n"), "{reply}");
    serving.await.unwrap();
}

/// After SIGTERM the process completes the running request and exits with success.
#[tokio::test(flavor = "multi_thread")]
async fn sigterm_waits_for_the_running_request() {
    let database = postgres::create_database(FIXTURE_SQL).await;
    let server = server_on_database(&database, &[]).await;
    insert_cards(&server, 1).await;
    let mut program = Program::start_on_database(
        &database,
        &[("shutdown_timeout_ms", "60000"), ("database_acquire_timeout_ms", "60000")],
    )
    .await;
    let mut idle = connect_and_send(program.address, LIVEZ).await;
    read_reply(&mut idle).await;
    let lock = lock_stock(&server).await;
    let mut buyer = connect_and_send(program.address, &sale_request()).await;
    server.wait_for_lock_waiter().await;
    kill_process(Pid::from_child(&program.child), Signal::TERM).unwrap();
    assert_eq!(read_until_closed(&mut idle).await, "");
    lock.rollback().await.unwrap();
    let reply = read_until_closed(&mut buyer).await;
    assert!(reply.contains("<number>1000001</number>") && reply.contains("\r\nconnection: close\r\n"), "{reply}");
    assert!(program.child.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_waits_no_longer_than_the_timeout() {
    let server =
        server_with_settings(&[("shutdown_timeout_ms", "100"), ("database_acquire_timeout_ms", "60000")]).await;
    insert_cards(&server, 1).await;
    let (address, stop, serving) = serve_until_stopped(&server).await;
    let lock = lock_stock(&server).await;
    let mut buyer = connect_and_send(address, &sale_request()).await;
    server.wait_for_lock_waiter().await;
    stop.cancel();
    serving.await.unwrap();
    assert_eq!(read_until_closed(&mut buyer).await, "");
    lock.rollback().await.unwrap();
    server.assert_rows(SOLD, &["0"]).await;
}
