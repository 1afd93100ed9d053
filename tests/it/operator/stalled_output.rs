//! Readers of the server's output that stop reading: the log, standard output, the service manager.

use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};
use tokio::task::JoinSet;

use crate::harness::program::Program;
use crate::harness::{FIXTURE_SQL, postgres, server_without_jobs, with_timeout};
use crate::http::sockets::{LIVEZ, assert_serves, connect, connect_and_send, post, read_reply};

/// The server, and its log as a pipe that is only read by [`next_line`](Self::next_line).
struct Server {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
}

impl Server {
    /// Starts the server; does not wait until it listens.
    fn start(command: std::process::Command) -> Self {
        let mut child = Command::from(command).kill_on_drop(true).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, log }
    }

    /// The next line of the log; `None` at its end.
    async fn next_line(&mut self) -> Option<String> {
        with_timeout("a line of the log", self.log.next_line()).await.unwrap()
    }

    /// Reads the log up to the next line with the address of a listener.
    async fn next_address(&mut self) -> SocketAddr {
        loop {
            let line = self.next_line().await.expect("the server exited");
            if let Some((_, rest)) = line.split_once("listening on http://") {
                return rest.split('/').next().unwrap().parse().unwrap();
            }
        }
    }

    fn send_sigterm(&self) {
        let pid = Pid::from_raw(self.child.id().unwrap().try_into().unwrap()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
    }

    async fn assert_stops(&mut self) {
        self.send_sigterm();
        assert!(with_timeout("the end of the server", self.child.wait()).await.unwrap().success());
    }
}

/// Starts a server; returns it with the addresses of the API and of the metrics.
async fn start_with_metrics() -> (Server, SocketAddr, SocketAddr) {
    let database = postgres::create_database(FIXTURE_SQL).await;
    let settings = [("failed_attempts_max", "0"), ("metrics_listen", "127.0.0.1:0"), ("log_format", "json")];
    let mut server = Server::start(Program::command(&database, &settings).await);
    let (api, metrics) = (server.next_address().await, server.next_address().await);
    (server, api, metrics)
}

/// Sends requests with wrong hashes until the log has dropped lines; returns how many. Each request logs one line.
async fn overfill_log(api: SocketAddr, metrics: SocketAddr) -> usize {
    const CLIENTS: usize = 8;
    const REQUESTS: usize = 50;
    let request_id = format!("x-request-id: {}\r\nhost:", "a".repeat(128));
    let request = post("card_from_group_sell", "u=admin&id=6&hash=wrong").replace("host:", &request_id);
    let mut sent = 0;
    while dropped_lines(metrics).await == 0 {
        // With more refused requests some could lack an audit row and thereby a log line.
        assert!(sent < 9_000, "no lines are dropped");
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let request = request.clone();
            clients.spawn(async move {
                let mut stream = connect(api).await;
                for _ in 0..REQUESTS {
                    stream.write_all(request.as_bytes()).await.unwrap();
                    assert!(read_reply(&mut stream).await.contains("Incorrect hash"));
                }
            });
        }
        with_timeout("the refusals", clients.join_all()).await;
        sent += CLIENTS * REQUESTS;
    }
    sent
}

/// The metric with the number of dropped log lines.
async fn dropped_lines(metrics: SocketAddr) -> u64 {
    let request = "GET /metrics HTTP/1.1\r\nhost: shop.test\r\n\r\n";
    let page = with_timeout("metrics", async { read_reply(&mut connect_and_send(metrics, request).await).await }).await;
    let line = page.lines().find_map(|line| line.strip_prefix("mortise_log_lines_dropped_total ")).unwrap();
    line.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_log_delays_neither_requests_nor_the_stop() {
    let (mut server, api, metrics) = start_with_metrics().await;
    overfill_log(api, metrics).await;
    let livez = with_timeout("/livez", async { read_reply(&mut connect_and_send(api, LIVEZ).await).await }).await;
    assert!(livez.starts_with("HTTP/1.1 200 "), "{livez}");
    with_timeout("a reply", assert_serves(api)).await;
    server.assert_stops().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_lines_are_reported_when_the_log_is_read_again() {
    let (mut server, api, metrics) = start_with_metrics().await;
    let sent = overfill_log(api, metrics).await;
    let (mut refusals, mut dropped, mut last_message) = (0, 0, String::new());
    while let Some(line) = server.next_line().await {
        let line: serde_json::Value = serde_json::from_str(&line).expect("a complete line");
        let fields = &line["fields"];
        last_message = fields["message"].as_str().unwrap().to_owned();
        refusals += usize::from(last_message.starts_with("hash refused"));
        if last_message.starts_with("log lines dropped") {
            dropped += fields["dropped"].as_u64().unwrap();
            assert_eq!(dropped, dropped_lines(metrics).await);
            server.send_sigterm();
        }
    }
    assert!(with_timeout("the end of the server", server.child.wait()).await.unwrap().success());
    assert!(refusals < sent && dropped > 0, "{sent} lines, {refusals} read, {dropped} dropped");
    // Some other line may be among the dropped ones.
    assert!(refusals + usize::try_from(dropped).unwrap() >= sent, "{sent} lines, {refusals} read, {dropped} dropped");
    assert_eq!(
        last_message, "shutting down, finishing requests in flight",
        "the last lines are written before the exit"
    );
}

/// The error with which the server ends is written through the same queue.
#[tokio::test]
async fn error_at_the_exit_follows_the_log() {
    let database = postgres::create_database(FIXTURE_SQL).await;
    let occupied = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = occupied.local_addr().unwrap().to_string();
    let settings = [("metrics_listen", address.as_str())];
    let mut server = Server::start(Program::command(&database, &settings).await);
    let mut lines = Vec::new();
    while let Some(line) = server.next_line().await {
        lines.push(line);
    }
    assert!(lines.last().unwrap().starts_with("mortise: cannot listen on 127.0.0.1:"), "{lines:?}");
    assert_eq!(with_timeout("the end of the server", server.child.wait()).await.unwrap().code(), Some(1));
}

/// At the first start standard output gets the credentials.
#[tokio::test]
async fn unread_standard_output_does_not_delay_the_stop() {
    let database = postgres::create_database("").await;
    let observer = server_without_jobs(&database, &[]).await;
    let (_reader, mut writer) = std::io::pipe().unwrap();
    // As many bytes as a pipe holds.
    std::io::Write::write_all(&mut writer, &[b'x'; 65_536]).unwrap();
    let mut command = Program::command(&database, &[]).await;
    command.stdout(Stdio::from(writer));
    let mut server = Server::start(command);
    // The transaction waits for the output, not only between two statements.
    let blocked = "select pid from pg_stat_activity where datname = current_database()
                   and state = 'idle in transaction' and state_change < clock_timestamp() - interval '1 second'";
    with_timeout("the output", async { while observer.rows(blocked).await.is_empty() {} }).await;
    server.assert_stops().await;
    // The next start creates and shows other credentials.
    observer.assert_rows("select count(*) from users", &["0"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn service_manager_that_does_not_read_delays_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let _manager = UnixDatagram::bind(&path).unwrap();
    let sender = UnixDatagram::unbound().unwrap();
    sender.set_nonblocking(true).unwrap();
    while sender.send_to(b"STATUS=", &path).is_ok() {}
    let database = postgres::create_database(FIXTURE_SQL).await;
    let mut command = Program::command(&database, &[]).await;
    command.env("NOTIFY_SOCKET", &path);
    let mut server = Server::start(command);
    let address = server.next_address().await;
    with_timeout("a reply", assert_serves(address)).await;
    server.assert_stops().await;
}
