//! `tariff_rates_get` streams its reply from one statement: slow and absent clients, a lost database, limits.

use std::net::SocketAddr;

use axum::body::{Body, BodyDataStream};
use axum::http::{Request, StatusCode};
use futures_util::{StreamExt, TryStreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tower::ServiceExt;

use crate::harness::{Server, hash, server_with_settings, with_timeout};

/// The sessions of the server in which a snapshot is open.
const SNAPSHOTS: &str = "select pid from pg_stat_activity where datname = current_database()
    and application_name = 'mortise' and coalesce(backend_xmin, backend_xid) is not null";
const HEAD: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>
                 <page>           <pagename>Tariff</pagename>
                                     <tariff_name>many</tariff_name>
                                     <purpose>user_wholesale</purpose>
                                     <currency>USD</currency>
                                    <rates>";

/// Adds the tariff 50 with rates. 50,000 of them are 40 MB of text: more than the buffers of both sockets.
async fn add_rates(server: &Server, count: u32) {
    server
        .execute(&format!(
            "insert into tariffs (id, name, purpose, currency) values (50, 'many', 'user_wholesale', 'USD');
             insert into directions (name, code) values ('Somewhere', 'SOM');
             insert into destinations (id, prefix, direction_code, name)
             select i, (1000000 + i)::text, 'SOM', 'Destination ' || i from generate_series(1, {count}) i;
             insert into rates (id, tariff_id, destination_id) select i, 50, i from generate_series(1, {count}) i;
             insert into ratedetails (rate_id, rate) select i, 0.5 from generate_series(1, {count}) i;
             analyze"
        ))
        .await;
}

fn form(test: bool) -> String {
    format!("u=admin&tariff_id=50{}&hash={}", if test { "&test=1" } else { "" }, hash("50", "secret"))
}

async fn start_request(address: SocketAddr) -> TcpStream {
    let form = form(true);
    let request = format!(
        "POST /billing/api/tariff_rates_get HTTP/1.1\r\nHost: shop\r\nConnection: close\r\nContent-Length: {}\r\n\
         Content-Type: application/x-www-form-urlencoded\r\n\r\n{form}",
        form.len()
    );
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(request.as_bytes()).await.unwrap();
    let mut start = [0; 15];
    with_timeout("the start of the list", client.read_exact(&mut start)).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 200 OK");
    client
}

async fn wait_for_snapshot(server: &Server, exists: bool) {
    server.wait_for_rows(SNAPSHOTS, |sessions| sessions.is_empty() != exists).await;
}

/// Whether the reply ends with the last chunk, which an aborted reply does not have.
async fn is_complete(mut client: TcpStream) -> bool {
    let mut reply = Vec::new();
    // An aborted reply may end with an error.
    let _ = with_timeout("the end of the connection", client.read_to_end(&mut reply)).await;
    reply.ends_with(b"</rates></page>\r\n0\r\n\r\n")
}

/// Starts the request in this process. The body is the reply as far as it is read.
async fn start_body(server: &Server, test: bool) -> (StatusCode, BodyDataStream) {
    let request = Request::post("/billing/api/tariff_rates_get").body(Body::from(form(test))).unwrap();
    let response = with_timeout("the headers", server.router.clone().oneshot(request)).await.unwrap();
    (response.status(), response.into_body().into_data_stream())
}

#[tokio::test]
async fn client_that_reads_nothing_is_cut_and_holds_no_snapshot() {
    // First by the write timeout, then by the time for the whole reply.
    for settings in [
        [("write_timeout_ms", "1000"), ("stream_timeout_ms", "600000")],
        [("write_timeout_ms", "0"), ("stream_timeout_ms", "1000")],
    ] {
        let server = server_with_settings(&settings).await;
        add_rates(&server, 50_000).await;
        let client = start_request(server.listen().await).await;
        wait_for_snapshot(&server, true).await;
        wait_for_snapshot(&server, false).await;
        // Its connections are free.
        drop(with_timeout("the connections", server.hold_connections()).await);
        assert!(!is_complete(client).await, "{settings:?}");
    }
}

#[tokio::test]
async fn client_that_reads_gets_everything() {
    let server = server_with_settings(&[]).await;
    add_rates(&server, 50_000).await;
    let address = server.listen().await;
    assert!(is_complete(start_request(address).await).await);
    wait_for_snapshot(&server, false).await;
    // A client that disconnects in the middle ends the statement.
    let client = start_request(address).await;
    wait_for_snapshot(&server, true).await;
    drop(client);
    wait_for_snapshot(&server, false).await;
}

#[tokio::test]
async fn lost_database_cuts_the_reply() {
    let server = server_with_settings(&[]).await;
    // The rows of fewer rates can fit into the buffers of the connection to the database: the statement would have
    // ended.
    add_rates(&server, 200_000).await;
    for test in [true, false] {
        let (status, mut body) = start_body(&server, test).await;
        assert_eq!(status, StatusCode::OK);
        with_timeout("the head", body.next()).await.unwrap().unwrap();
        // Until a session is terminated: planning has a snapshot of its own, and no snapshot is open after it.
        let terminate = format!("select pg_terminate_backend(pid)::text from ({SNAPSHOTS}) session");
        server.wait_for_rows(&terminate, |terminated| !terminated.is_empty()).await;
        let rest: Result<Vec<_>, _> = with_timeout("the end of the reply", body.try_collect()).await;
        assert!(rest.is_err(), "{test}");
        // Otherwise the next round could see the snapshot of the process that ends here.
        wait_for_snapshot(&server, false).await;
    }
    // The next request works again.
    let (_, body) = start_body(&server, true).await;
    let chunks: Vec<_> = with_timeout("the reply", body.try_collect()).await.unwrap();
    assert_eq!(chunks.concat().windows(7).filter(|text| text == b"</rate>").count(), 200_000);
}

/// The head of the reply is sent before the statement has found its first row.
#[tokio::test]
async fn head_comes_before_the_first_row() {
    let server = server_with_settings(&[]).await;
    add_rates(&server, 1).await;
    for test in [true, false] {
        let mut lock = server.pool.begin().await.unwrap();
        sqlx::raw_sql("lock table destinations").execute(&mut *lock).await.unwrap();
        let (_, mut body) = start_body(&server, test).await;
        let head = with_timeout("the head", body.next()).await.unwrap().unwrap();
        match test {
            true => assert_eq!(String::from_utf8_lossy(&head), HEAD),
            // The header of the entry.
            false => assert_eq!(&head[..4], b"PK\x03\x04"),
        }
        server.wait_for_lock_waiter().await;
        lock.rollback().await.unwrap();
        let rest: Vec<_> = with_timeout("the rest", body.try_collect()).await.unwrap();
        let reply = [head.to_vec(), rest.concat()].concat();
        assert!(!test || reply.ends_with(b"</rate></rates></page>"));
        assert!(test || reply[reply.len() - 22..].starts_with(b"PK\x05\x06"));
    }
}

/// Streams use at most a quarter of the connections, and one user half of them; others go on.
#[tokio::test]
async fn number_of_streams_is_limited() {
    let settings = [("database_connections", "8"), ("database_acquire_timeout_ms", "300")];
    let server = server_with_settings(&settings).await;
    add_rates(&server, 50_000).await;
    let (_, mut first) = start_body(&server, true).await;
    with_timeout("the head", first.next()).await.unwrap().unwrap();
    let (status, refused) = start_body(&server, true).await;
    let text: Vec<_> = refused.try_collect().await.unwrap();
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(String::from_utf8_lossy(&text.concat()).contains("Service is temporarily unavailable"));
    server.post_signed("card_group_get", "u=admin&id=6", "6").await.element_texts("name");
    // Another user has a place.
    server.execute("update users set tariff_id = 50 where id = 2").await;
    let other = server.post_signed("tariff_rates_get", "u=user&test=1", "").await;
    assert!(other.body.ends_with("</rates></page>"));
    drop(first);
    let again = server.post_signed("tariff_rates_get", "u=admin&tariff_id=50&test=1", "50").await;
    assert!(again.body.ends_with("</rates></page>"));
}
