//! Timeouts and limits of connections and requests, tested with misbehaving clients while another client is served.

use std::time::Duration;

use axum::body::{Body, Bytes};
use futures_util::stream::{self, StreamExt};
use mortise::error::ApiError;
use mortise::http::request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

use super::monitoring::page_with;
use super::sockets::{
    LIVEZ, assert_serves, connect, connect_and_send, group_request, insert_cards, is_overloaded, list_request,
    lock_stock, post, read_reply, read_until_closed, sale_request,
};
use crate::harness::server_with_settings;

#[tokio::test(flavor = "multi_thread")]
async fn slow_header_closes_the_connection() {
    let server = server_with_settings(&[("header_timeout_ms", "3000")]).await;
    let address = server.listen().await;
    let mut silent = connect(address).await;
    let (mut slow, mut write) = connect_and_send(address, "GET /livez HTTP/1.1\r\nx-slow: ").await.into_split();
    // Single bytes do not extend the timeout.
    let writer = tokio::spawn(async move {
        while write.write_all(b"z").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await
        }
    });
    assert_serves(address).await;
    assert_eq!(read_until_closed(&mut silent).await, "");
    assert!(matches!(slow.read(&mut [0; 1]).await, Ok(0) | Err(_)));
    writer.await.unwrap();
    assert_serves(address).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connection_is_closed_after_the_timeout() {
    let server = server_with_settings(&[("header_timeout_ms", "3600000"), ("keep_alive_timeout_ms", "1000")]).await;
    let address = server.listen().await;
    let mut keep_alive = connect_and_send(address, LIVEZ).await;
    assert!(read_reply(&mut keep_alive).await.starts_with("HTTP/1.1 200 "));
    assert_serves(address).await;
    assert_eq!(read_until_closed(&mut keep_alive).await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn header_size_and_count_are_limited() {
    for headers in ["100", "40"] {
        let server = server_with_settings(&[("max_headers", headers), ("max_header_bytes", "9000")]).await;
        let address = server.listen().await;
        let request = |count: usize| format!("GET /livez HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(count));
        let limit = headers.parse().unwrap();
        assert!(read_reply(&mut connect_and_send(address, &request(limit)).await).await.starts_with("HTTP/1.1 200 "));
        let mut many = connect_and_send(address, &request(limit + 1)).await;
        assert!(read_until_closed(&mut many).await.starts_with("HTTP/1.1 431 "));

        // An endless header is refused when it reaches the limit.
        let mut endless = connect_and_send(address, "GET /livez HTTP/1.1\r\nx: ").await;
        while endless.write_all(&[b'z'; 500]).await.is_ok() {}
        assert!(read_until_closed(&mut endless).await.starts_with("HTTP/1.1 431 "));
        let large = format!("GET /livez HTTP/1.1\r\nx: {}\r\n\r\n", "z".repeat(9000));
        assert!(read_until_closed(&mut connect_and_send(address, &large).await).await.starts_with("HTTP/1.1 431 "));
        assert_serves(address).await;
    }
}

/// A body that is being received does not occupy a request permit.
#[tokio::test(flavor = "multi_thread")]
async fn slow_body_is_refused_after_the_timeout() {
    let server = server_with_settings(&[("body_timeout_ms", "1000"), ("max_requests", "1")]).await;
    let address = server.listen().await;
    let half = "POST /api/card_group_get HTTP/1.1\r\nhost: shop.test\r\ncontent-length: 100\r\n\r\nu=admin&";
    let mut slow = connect_and_send(address, half).await;
    let mut missing = connect_and_send(address, &half[..half.len() - 8]).await;
    assert_serves(address).await;
    for stream in [&mut slow, &mut missing] {
        let reply = read_until_closed(stream).await;
        assert!(reply.starts_with("HTTP/1.1 408 ") && reply.contains("Request body did not come in time"), "{reply}");
        assert!(reply.contains("\r\nconnection: close\r\n"), "{reply}");
    }
    assert_serves(address).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn body_size_is_limited() {
    let server = server_with_settings(&[("max_body", "100000")]).await;
    let address = server.listen().await;
    let header = |field: &str| format!("POST /api/card_group_get HTTP/1.1\r\nhost: shop.test\r\n{field}\r\n\r\n");
    // A declared length above the limit is refused before the body arrives.
    let mut declared = connect_and_send(address, &header("content-length: 100001")).await;
    let mut endless = connect_and_send(address, &header("transfer-encoding: chunked")).await;
    let chunk = format!("400\r\n{}\r\n", "z".repeat(0x400));
    while endless.write_all(chunk.as_bytes()).await.is_ok() {}
    for stream in [&mut declared, &mut endless] {
        let reply = read_until_closed(stream).await;
        assert!(reply.starts_with("HTTP/1.1 413 ") && reply.contains("Request is too large"), "{reply}");
    }
    // A body of exactly the limit, in many parts, is accepted.
    let (form, mut pieces) = ("x=".to_owned() + &"z".repeat(99_998), connect(address).await);
    pieces.write_all(header("content-length: 100000").as_bytes()).await.unwrap();
    for piece in form.as_bytes().chunks(999) {
        pieces.write_all(piece).await.unwrap();
    }
    let reply = read_reply(&mut pieces).await;
    assert!(reply.contains("Bad login"), "{reply}");
    assert_serves(address).await;
}

/// The clock is paused: it jumps to the next event when the test waits.
#[tokio::test(start_paused = true)]
async fn slow_oversized_body_is_read_for_a_limited_time() {
    let slow = stream::repeat(()).then(async |()| {
        tokio::time::sleep(Duration::from_millis(50)).await;
        Ok::<_, std::io::Error>(Bytes::from_static(b"z"))
    });
    let drained = request::drain_oversized(Body::from_stream(slow), 10_000);
    assert_eq!(tokio::time::timeout(Duration::from_secs(6), drained).await, Ok(ApiError::BodyTooLarge));
}

/// Only bodies above 16 kB use the shared memory limit, so small requests are still served.
#[tokio::test(flavor = "multi_thread")]
async fn slow_large_bodies_share_a_memory_limit() {
    let server = server_with_settings(&[("max_body_memory", "50000"), ("failed_attempts_max", "0")]).await;
    let address = server.listen().await;
    let body = |length: usize| post("card_group_get", &format!("x={}", "z".repeat(length - 2)));
    let (large, slow) = (body(60_000), body(60_000));
    let received = 50_000 - slow.find("x=").unwrap();
    let mut slow_client = connect_and_send(address, &slow[..50_000]).await;
    // A second large body could use up the memory that the first one still needs.
    page_with(&server, &[&format!("mortise_request_bodies_bytes {}\n", received - 16 * 1024)]).await;
    let reply = read_reply(&mut connect_and_send(address, &large).await).await;
    assert!(is_overloaded(&reply), "{reply}");
    assert_serves(address).await;
    slow_client.write_all(&slow.as_bytes()[50_000..]).await.unwrap();
    assert!(read_reply(&mut slow_client).await.contains("Bad login"));
    assert!(read_reply(&mut connect_and_send(address, &large).await).await.contains("Bad login"));
}

/// The client sends requests endlessly and reads no reply, until the server can't write any more.
#[tokio::test(flavor = "multi_thread")]
async fn client_that_does_not_read_is_disconnected() {
    let server = server_with_settings(&[("write_timeout_ms", "1000")]).await;
    let address = server.listen().await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut client = socket.connect(address).await.unwrap();
    let closed = tokio::spawn(async move {
        let requests = LIVEZ.repeat(100);
        while client.write_all(requests.as_bytes()).await.is_ok() {}
    });
    assert_serves(address).await;
    tokio::time::timeout(Duration::from_secs(60), closed).await.expect("the connection is not closed").unwrap();
    assert_serves(address).await;
}

/// With four database connections only one list is read at a time, so the second list needs the permit of the first.
#[tokio::test(flavor = "multi_thread")]
async fn aborted_list_releases_its_database_connection() {
    let settings = [("write_timeout_ms", "1000"), ("database_acquire_timeout_ms", "60000"), ("max_connections", "3")];
    let server = server_with_settings(&settings).await;
    insert_cards(&server, 40_000).await;
    let address = server.listen().await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut client = socket.connect(address).await.unwrap();
    client.write_all(list_request().as_bytes()).await.unwrap();
    client.readable().await.unwrap();
    assert_serves(address).await;
    let close = list_request().replace("host:", "connection: close\r\nhost:");
    let list = read_until_closed(&mut connect_and_send(address, &close).await).await;
    assert!(list.starts_with("HTTP/1.1 200 ") && list.trim_end().ends_with("</page>\n\r\n0"), "{}", list.len());
    // The server closes the connection of the first list, which leaves place for another one. Only then does the client
    // read on.
    let _idle = [connect(address).await, connect(address).await];
    while !read_until_closed(&mut connect_and_send(address, "GET /livez HTTP/1.0\r\n\r\n").await).await.contains("ok\n")
    {
    }
    assert!(!read_until_closed(&mut client).await.contains("</page>"));
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_above_the_limit_are_refused() {
    let server = server_with_settings(&[("max_connections", "3")]).await;
    let address = server.listen().await;
    let mut keep_alive = connect_and_send(address, LIVEZ).await;
    read_reply(&mut keep_alive).await;
    let idle = [connect(address).await, connect(address).await];
    let reply = read_until_closed(&mut connect_and_send(address, &group_request()).await).await;
    assert!(is_overloaded(&reply) && reply.contains("<error>Too many requests at once</error>"), "{reply}");
    // Existing connections are served, and a closed connection allows a new one.
    keep_alive.write_all(group_request().as_bytes()).await.unwrap();
    assert!(read_reply(&mut keep_alive).await.contains("ten dollars"));
    drop(idle);
    while is_overloaded(&read_until_closed(&mut connect_and_send(address, "GET /livez HTTP/1.0\r\n\r\n").await).await) {
    }
    keep_alive.write_all(LIVEZ.as_bytes()).await.unwrap();
    assert!(read_reply(&mut keep_alive).await.contains("ok\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_above_the_limit_are_refused() {
    let server = server_with_settings(&[("max_requests", "1"), ("database_acquire_timeout_ms", "60000")]).await;
    insert_cards(&server, 1).await;
    let address = server.listen().await;
    let lock = lock_stock(&server).await;
    let mut first = connect_and_send(address, &sale_request()).await;
    server.wait_for_lock_waiter().await;
    let mut second = connect_and_send(address, &group_request()).await;
    assert!(is_overloaded(&read_reply(&mut second).await));
    second.write_all(LIVEZ.as_bytes()).await.unwrap();
    assert!(read_reply(&mut second).await.contains("ok\n"));
    lock.rollback().await.unwrap();
    let reply = read_reply(&mut first).await;
    assert!(reply.contains("<number>1000001</number>"), "{reply}");
    second.write_all(group_request().as_bytes()).await.unwrap();
    assert!(read_reply(&mut second).await.contains("ten dollars"));
}
