//! A load generator: a number of connections that each send a request, read the reply, and send the next.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use memchr::memmem;
use sha1::{Digest, Sha1};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// What a load came to.
#[derive(Debug, Default, Clone)]
pub struct LoadResult {
    pub requests: usize,
    pub seconds: f64,
    /// In the order of their length.
    pub latencies: Vec<Duration>,
}

impl LoadResult {
    pub fn requests_per_second(&self) -> f64 {
        self.requests as f64 / self.seconds
    }

    /// The latency that this share of requests stays below.
    pub fn percentile(&self, share: f64) -> Duration {
        let at = (self.latencies.len() as f64 * share) as usize;
        self.latencies.get(at.min(self.latencies.len().saturating_sub(1))).copied().unwrap_or_default()
    }

    /// Another turn of the same.
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
    /// So many requests on each connection.
    Requests(usize),
}

/// The request hash, as a client makes it.
pub fn request_hash(values: &str) -> String {
    hex::encode(Sha1::digest(format!("{values}{}", crate::fixtures::SECRET_KEY)))
}

/// The bytes of a POST with a form.
pub fn post_request(operation: &str, form: &str) -> Vec<u8> {
    format!(
        "POST /billing/api/{operation} HTTP/1.1\r\nHost: shop\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
        form.len()
    )
    .into_bytes()
}

/// The bytes of a GET.
pub fn get_request(path_and_query: &str) -> Vec<u8> {
    format!("GET {path_and_query} HTTP/1.1\r\nHost: shop\r\n\r\n").into_bytes()
}

/// A sale of so many cards of the group.
pub fn sale_request(group: u32, quantity: u32) -> Vec<u8> {
    post_request(
        "card_from_group_sell",
        &format!("u=admin&id={group}&quantity={quantity}&hash={}", request_hash(&format!("{group}{quantity}"))),
    )
}

/// The sale of a card with an idempotency key of its own.
pub fn keyed_sale_request(group: u32) -> Vec<u8> {
    static NEXT_KEY: AtomicUsize = AtomicUsize::new(0);
    let key = request_hash(&NEXT_KEY.fetch_add(1, Ordering::Relaxed).to_string());
    let form = format!("u=admin&id={group}&quantity=1&request_id={key}&hash={}", request_hash(&format!("{group}1")));
    post_request("card_from_group_sell", &form)
}

/// Sends requests over so many connections, spread over the servers; `request` makes the one with a number, and every reply must
/// contain `expected`.
pub async fn run(
    servers: &[SocketAddr],
    connections: usize,
    until: StopCondition,
    expected: &'static str,
    request: impl Fn(usize) -> Vec<u8> + Clone + Send + 'static,
) -> LoadResult {
    let mut tasks = JoinSet::new();
    let begun = Instant::now();
    for connection in 0..connections {
        let server = servers[connection % servers.len()];
        let request = request.clone();
        tasks.spawn(async move {
            let mut stream = TcpStream::connect(server).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let mut latencies = Vec::new();
            let mut buffer = Vec::with_capacity(16 * 1024);
            for turn in 0.. {
                let over = match until {
                    StopCondition::Time(time) => begun.elapsed() >= time,
                    StopCondition::Requests(most) => turn >= most,
                };
                if over {
                    break;
                }
                let bytes = request(turn * connections + connection);
                let since = Instant::now();
                stream.write_all(&bytes).await.unwrap();
                read_reply(&mut stream, &mut buffer, expected).await;
                latencies.push(since.elapsed());
            }
            latencies
        });
    }
    let mut load = LoadResult::default();
    while let Some(latencies) = tasks.join_next().await {
        load.latencies.extend(latencies.unwrap());
    }
    load.seconds = begun.elapsed().as_secs_f64();
    load.requests = load.latencies.len();
    load.latencies.sort_unstable();
    load
}

/// Reads a reply with a Content-Length, which all short ones have, at the least cost: what is spent here the server can't have.
async fn read_reply(stream: &mut TcpStream, buffer: &mut Vec<u8>, expected: &str) {
    buffer.clear();
    let mut whole = None;
    while whole.is_none_or(|whole| buffer.len() < whole) {
        assert!(stream.read_buf(buffer).await.unwrap() > 0, "the server closed the connection");
        if whole.is_none()
            && let Some(head) = memmem::find(buffer, b"\r\n\r\n")
        {
            whole = Some(head + 4 + parse_content_length(&buffer[..head]));
        }
    }
    assert!(memmem::find(buffer, expected.as_bytes()).is_some(), "{}", String::from_utf8_lossy(buffer));
}

fn parse_content_length(head: &[u8]) -> usize {
    const HEADER_NAME: &[u8] = b"\r\ncontent-length: ";
    let digits = &head[memmem::find(head, HEADER_NAME).expect("a short reply") + HEADER_NAME.len()..];
    digits
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .fold(0, |length, digit| length * 10 + usize::from(digit - b'0'))
}

/// One request whose reply may be of any length, to the end; its bytes, how often `mark` was in it, and how long it took.
pub async fn download(server: SocketAddr, operation: &str, form: &str, mark: &[u8]) -> (usize, usize, Duration) {
    let since = Instant::now();
    let mut stream = TcpStream::connect(server).await.unwrap();
    let request = String::from_utf8(post_request(operation, form))
        .unwrap()
        .replace("Host: shop", "Host: shop\r\nConnection: close");
    stream.write_all(request.as_bytes()).await.unwrap();
    let (mut bytes, mut marks, mut kept) = (0, 0, Vec::new());
    loop {
        let read = stream.read_buf(&mut kept).await.unwrap();
        if read == 0 {
            return (bytes, marks, since.elapsed());
        }
        bytes += read;
        marks += kept.windows(mark.len()).filter(|window| *window == mark).count();
        // What may be the beginning of a mark stays for the next time.
        kept.drain(..kept.len() - (mark.len() - 1).min(kept.len()));
    }
}
