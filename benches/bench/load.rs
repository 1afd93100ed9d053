//! The load generator: each of its connections sends a request, reads the reply, then sends the next request.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use memchr::memmem;
use sha1::{Digest, Sha1};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};

/// The result of a load.
#[derive(Debug, Default, Clone)]
pub struct LoadResult {
    pub requests: usize,
    pub seconds: f64,
    /// Sorted in ascending order.
    pub latencies: Vec<Duration>,
}

impl LoadResult {
    pub fn requests_per_second(&self) -> f64 {
        self.requests as f64 / self.seconds
    }

    /// The latency percentile for a fraction between 0 and 1.
    pub fn percentile(&self, fraction: f64) -> Duration {
        let index = (self.latencies.len() as f64 * fraction) as usize;
        self.latencies.get(index.min(self.latencies.len().saturating_sub(1))).copied().unwrap_or_default()
    }

    /// Adds the result of another run of the same load.
    pub fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.seconds += other.seconds;
        self.latencies.extend(other.latencies);
        self.latencies.sort_unstable();
    }
}

/// When a load ends.
#[derive(Debug, Clone, Copy)]
pub enum StopCondition {
    Time(Duration),
    /// This number of requests on each connection.
    Requests(usize),
}

/// The request hash of the concatenated `values`.
pub fn request_hash(values: &str) -> String {
    hex::encode(Sha1::digest(format!("{values}{}", crate::fixtures::SECRET_KEY)))
}

/// The bytes of a POST with a form.
pub fn post_request(operation: &str, form: &str) -> Vec<u8> {
    format!(
        "POST /billing/api/{operation} HTTP/1.1\r\nHost: shop\r\nContent-Type: application/x-www-form-urlencoded\r\n\
         Content-Length: {}\r\n\r\n{form}",
        form.len()
    )
    .into_bytes()
}

/// The bytes of a GET.
pub fn get_request(path_and_query: &str) -> Vec<u8> {
    format!("GET {path_and_query} HTTP/1.1\r\nHost: shop\r\n\r\n").into_bytes()
}

/// A sale of `quantity` cards of a group.
pub fn sale_request(group: u32, quantity: u32) -> Vec<u8> {
    post_request(
        "card_from_group_sell",
        &format!("u=admin&id={group}&quantity={quantity}&hash={}", request_hash(&format!("{group}{quantity}"))),
    )
}

/// A sale of one card with a new idempotency key.
pub fn keyed_sale_request(group: u32) -> Vec<u8> {
    static NEXT_KEY: AtomicUsize = AtomicUsize::new(0);
    sale_request_with_key(group, &request_hash(&NEXT_KEY.fetch_add(1, Ordering::Relaxed).to_string()))
}

/// A sale of one card with an idempotency key.
pub fn sale_request_with_key(group: u32, key: &str) -> Vec<u8> {
    let form = format!("u=admin&id={group}&quantity=1&request_id={key}&hash={}", request_hash(&format!("{group}1")));
    post_request("card_from_group_sell", &form)
}

/// Sends requests over `connections` connections, distributed over the servers. `request` returns the bytes of the
/// request with a sequence number. Every reply must contain `expected`.
pub async fn run(
    servers: &[SocketAddr],
    connections: usize,
    until: StopCondition,
    expected: &'static str,
    request: impl Fn(usize) -> Vec<u8> + Clone + Send + 'static,
) -> LoadResult {
    let mut tasks = JoinSet::new();
    let start = Instant::now();
    for connection in 0..connections {
        let server = servers[connection % servers.len()];
        let request = request.clone();
        tasks.spawn(async move {
            let mut stream = TcpStream::connect(server).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let mut latencies = Vec::new();
            let mut buffer = Vec::with_capacity(16 * 1024);
            for sent in 0.. {
                let is_finished = match until {
                    StopCondition::Time(duration) => start.elapsed() >= duration,
                    StopCondition::Requests(limit) => sent >= limit,
                };
                if is_finished {
                    break;
                }
                let bytes = request(sent * connections + connection);
                let sent_at = Instant::now();
                stream.write_all(&bytes).await.unwrap();
                read_reply(&mut stream, &mut buffer, expected).await;
                latencies.push(sent_at.elapsed());
            }
            latencies
        });
    }
    let mut load = LoadResult::default();
    while let Some(latencies) = tasks.join_next().await {
        load.latencies.extend(latencies.unwrap());
    }
    load.seconds = start.elapsed().as_secs_f64();
    load.requests = load.latencies.len();
    load.latencies.sort_unstable();
    load
}

/// Sends requests as [`run`] does, until the returned tasks are dropped.
pub fn spawn_until_aborted(
    servers: &[SocketAddr],
    connections: usize,
    expected: &'static str,
    request: fn(usize) -> Vec<u8>,
) -> JoinSet<LoadResult> {
    let (servers, mut tasks) = (servers.to_vec(), JoinSet::new());
    let forever = StopCondition::Time(Duration::MAX);
    tasks.spawn(async move { run(&servers, connections, forever, expected, request).await });
    tasks
}

/// Reads a reply with a `Content-Length`, which all short replies have. Parses as little as possible: CPU time used
/// here is not available to the server.
async fn read_reply(stream: &mut TcpStream, buffer: &mut Vec<u8>, expected: &str) {
    buffer.clear();
    let mut reply_len = None;
    while reply_len.is_none_or(|reply_len| buffer.len() < reply_len) {
        assert!(stream.read_buf(buffer).await.unwrap() > 0, "the server closed the connection");
        if reply_len.is_none()
            && let Some(head_len) = memmem::find(buffer, b"\r\n\r\n")
        {
            reply_len = Some(head_len + 4 + parse_content_length(&buffer[..head_len]));
        }
    }
    assert!(memmem::find(buffer, expected.as_bytes()).is_some(), "{}", String::from_utf8_lossy(buffer));
}

fn parse_content_length(head: &[u8]) -> usize {
    const HEADER_NAME: &[u8] = b"\r\ncontent-length: ";
    let digits = &head[memmem::find(head, HEADER_NAME).expect("reply has no content-length") + HEADER_NAME.len()..];
    digits
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .fold(0, |length, digit| length * 10 + usize::from(digit - b'0'))
}

/// Sends one request, waits for the start of the reply, and then reads it in a task, with 128 kB a second. A client
/// that is much slower is ended by `write_timeout_ms`: the operating system reports that a socket takes more data only
/// when a third of its buffer is free. The task ends when the server closes the connection.
pub async fn start_slow_download(server: SocketAddr, operation: &str, form: &str) -> JoinHandle<()> {
    let mut stream = TcpStream::connect(server).await.unwrap();
    stream.write_all(&post_request(operation, form)).await.unwrap();
    let mut buffer = vec![0; 16 * 1024];
    stream.read_exact(&mut buffer).await.unwrap();
    tokio::spawn(async move {
        while stream.read(&mut buffer).await.is_ok_and(|bytes| bytes > 0) {
            tokio::time::sleep(Duration::from_millis(125)).await;
        }
    })
}

/// Sends one request and reads a reply of any length. Returns the number of bytes, the number of occurrences of
/// `pattern`, and the duration.
pub async fn download(server: SocketAddr, operation: &str, form: &str, pattern: &[u8]) -> (usize, usize, Duration) {
    let start = Instant::now();
    let mut stream = TcpStream::connect(server).await.unwrap();
    let request = String::from_utf8(post_request(operation, form))
        .unwrap()
        .replace("Host: shop", "Host: shop\r\nConnection: close");
    stream.write_all(request.as_bytes()).await.unwrap();
    let (mut bytes, mut matches, mut buffer) = (0, 0, Vec::new());
    loop {
        let read = stream.read_buf(&mut buffer).await.unwrap();
        if read == 0 {
            return (bytes, matches, start.elapsed());
        }
        bytes += read;
        matches += buffer.windows(pattern.len()).filter(|window| *window == pattern).count();
        // Keeps the bytes that may be the start of a match across two reads.
        buffer.drain(..buffer.len() - (pattern.len() - 1).min(buffer.len()));
    }
}
