//! A client over plain sockets, and the data for its requests.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Server, hash};

pub const LIVEZ: &str = "GET /livez HTTP/1.1\r\nhost: shop.test\r\n\r\n";

/// Counts the sold cards.
pub const SOLD: &str = "select count(*) from payments where kind = 'sale'";

pub async fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.unwrap()
}

pub async fn connect_and_send(address: SocketAddr, bytes: &str) -> TcpStream {
    let mut stream = connect(address).await;
    stream.write_all(bytes.as_bytes()).await.unwrap();
    stream
}

/// Reads until the server closes the connection. Fails the test after 60 s.
pub async fn read_until_closed(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = async {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = stream.read(&mut buffer).await {
            bytes.extend_from_slice(&buffer[..length]);
        }
    };
    tokio::time::timeout(Duration::from_secs(60), read).await.expect("the connection is not closed");
    String::from_utf8(bytes).unwrap()
}

/// Reads one reply, by its `content-length`, or until the connection is closed.
pub async fn read_reply(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let is_complete = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        let (header, body) = text.split_once("\r\n\r\n")?;
        let length: usize = header.split("content-length: ").nth(1)?.lines().next()?.parse().unwrap();
        Some(body.len() >= length)
    };
    while is_complete(&bytes) != Some(true) {
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer).await {
            Ok(length @ 1..) => bytes.extend_from_slice(&buffer[..length]),
            _ => break,
        }
    }
    String::from_utf8(bytes).unwrap()
}

pub fn post(operation: &str, form: &str) -> String {
    let length = form.len();
    format!("POST /api/{operation} HTTP/1.1\r\nhost: shop.test\r\ncontent-length: {length}\r\n\r\n{form}")
}

pub fn sale_request() -> String {
    post("card_from_group_sell", &format!("u=admin&id=11&quantity=1&hash={}", hash("111", "secret")))
}

pub fn list_request() -> String {
    post("calling_cards_get", &format!("u=admin&hash={}", hash("", "secret")))
}

pub fn group_request() -> String {
    post("card_group_get", &format!("u=admin&id=6&hash={}", hash("6", "secret")))
}

/// Asserts that a well-behaved client is served.
pub async fn assert_serves(address: SocketAddr) {
    let reply = read_reply(&mut connect_and_send(address, &group_request()).await).await;
    assert!(reply.starts_with("HTTP/1.1 200 ") && reply.contains("<name>ten dollars</name>"), "{reply}");
}

pub fn is_overloaded(reply: &str) -> bool {
    reply.starts_with("HTTP/1.1 503 ") && reply.to_lowercase().contains("\r\nretry-after: 1\r\n")
}

/// Inserts cards into group 11.
pub async fn insert_cards(server: &Server, count: usize) {
    let sql = format!(
        "update cardgroups set number_length = 7, pin_length = 7 where id = 11;
         insert into cards (cardgroup_id, number, pin, balance)
         select 11, (1000000 + i)::text, (2000000 + i)::text, 7 from generate_series(1, {count}) i"
    );
    server.execute(&sql).await;
}

/// Locks the stock: sales wait until the transaction ends.
pub async fn lock_stock(server: &Server) -> sqlx::Transaction<'static, sqlx::Postgres> {
    let mut lock = server.pool.begin().await.unwrap();
    sqlx::query("lock table card_stock").execute(&mut *lock).await.unwrap();
    lock
}
