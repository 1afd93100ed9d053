//! Traces: the export to a collector.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::process::start_error;
use crate::harness::program::Program;
use crate::harness::{FIXTURE_SQL, hash, postgres};

const SOLD: &str = "1b4e28ba-sold";
const REFUSED: &str = "1b4e28ba-refused";
const PARENT: (&str, &str) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");

/// Header and body of a request.
type Received = (String, Vec<u8>);

/// A collector that records the requests and replies with `status`.
#[derive(Clone)]
struct Collector {
    url: String,
    received: Arc<Mutex<Vec<Received>>>,
    status: Arc<Mutex<&'static str>>,
}

impl Collector {
    async fn start(status: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let collector = Self {
            url: format!("http://{}/", listener.local_addr().unwrap()),
            received: Arc::default(),
            status: Arc::new(Mutex::new(status)),
        };
        let server = collector.clone();
        tokio::spawn(async move {
            loop {
                tokio::spawn(server.clone().serve(listener.accept().await.unwrap().0));
            }
        });
        collector
    }

    async fn serve(self, connection: TcpStream) {
        let mut connection = BufReader::new(connection);
        loop {
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                if connection.read_line(&mut head).await.unwrap_or(0) == 0 {
                    return;
                }
            }
            let length = head.to_lowercase().split("content-length: ").nth(1).unwrap().to_owned();
            let mut body = vec![0; length.lines().next().unwrap().parse().unwrap()];
            connection.read_exact(&mut body).await.unwrap();
            self.received.lock().unwrap().push((head, body));
            let reply = format!("HTTP/1.1 {}\r\nContent-Length: 0\r\n\r\n", self.status.lock().unwrap());
            connection.write_all(reply.as_bytes()).await.unwrap();
        }
    }

    fn bodies(&self) -> Vec<u8> {
        self.received.lock().unwrap().iter().flat_map(|(_, body)| body.clone()).collect()
    }
}

async fn program(collector: &str) -> Program {
    let settings = [("otlp_endpoint", collector)];
    let mut command = Program::command(&postgres::create_database(FIXTURE_SQL).await, &settings).await;
    // Delay before a batch of spans is exported, in ms; the default is 5 s.
    command.env("OTEL_BSP_SCHEDULE_DELAY", "20");
    Program::start(command)
}

/// Sends a sale with these headers.
async fn send_sale(program: &Program, hash: &str, headers: &[(&str, &str)]) {
    let mut request = axum::http::Request::post(format!("http://{}/api/card_from_group_sell", program.address));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let form = format!("u=admin&id=6&quantity=1&hash={hash}");
    program.send_streaming(request.body(form.into()).unwrap(), |_| {}).await;
}

fn occurrences(bytes: &[u8], part: &[u8]) -> usize {
    bytes.windows(part.len()).filter(|window| *window == part).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_sampled_request_is_exported() {
    let collector = Collector::start("200 OK").await;
    let program = program(&collector.url).await;
    let traceparent = format!("00-{}-{}-01", PARENT.0, PARENT.1);
    let right = hash("61", "secret");
    let parent = [("x-request-id", SOLD), ("traceparent", traceparent.as_str()), ("tracestate", "shop=s3same")];
    send_sale(&program, &right, &parent).await;
    send_sale(&program, "wrong", &[("x-request-id", REFUSED)]).await;
    // The client has set the sampled flag to 0.
    let unsampled = format!("00-{}-{}-00", PARENT.0, PARENT.1);
    send_sale(&program, &right, &[("x-request-id", "unsampled"), ("traceparent", &unsampled)]).await;
    // The shutdown exports the queued spans.
    let log = program.stop();
    assert!(!log.contains("trace export"), "{log}");

    let received = collector.received.lock().unwrap().clone();
    let (head, _) = &received[0];
    assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
    assert!(head.to_lowercase().contains("content-type: application/x-protobuf"), "{head}");
    let sent = collector.bodies();
    for (part, times) in [
        ("card_from_group_sell", 4), // names and attributes
        ("done", 1),
        ("incorrect_hash", 1),
        (SOLD, 1),
        (REFUSED, 1),
        ("unsampled", 0),
        ("s3same", 0),
        ("http.response.status_code", 2),
        (right.as_str(), 0),
        ("wrong", 0),
    ] {
        assert_eq!(occurrences(&sent, part.as_bytes()), times, "{part}");
    }
    for part in ["service.name", "mortise", env!("CARGO_PKG_VERSION")] {
        assert!(occurrences(&sent, part.as_bytes()) > 0, "{part}");
    }
    // Fields 1 and 4 of a span: its trace id and its parent span id.
    let trace = [&[0x0a, 16][..], &hex::decode(PARENT.0).unwrap()].concat();
    let parent = [&[0x22, 8][..], &hex::decode(PARENT.1).unwrap()].concat();
    assert_eq!((occurrences(&sent, &trace), occurrences(&sent, &parent)), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failing_export_is_logged_once() {
    let collector = Collector::start("400 Bad Request").await;
    let program = program(&collector.url).await;
    let log_count = |message: &str| program.log.lock().unwrap().matches(message).count();
    while collector.received.lock().unwrap().len() < 3 {
        send_sale(&program, "wrong", &[]).await;
    }
    *collector.status.lock().unwrap() = "200 OK";
    while log_count("trace export resumed") == 0 {
        send_sale(&program, "wrong", &[]).await;
    }
    assert_eq!(log_count("trace export failed, dropping spans"), 1);
}

/// The collector accepts the connection but never replies. Neither requests nor the shutdown wait for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_collector_does_not_delay_requests_or_shutdown() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let program = program(&format!("http://{}", listener.local_addr().unwrap())).await;
    send_sale(&program, "wrong", &[]).await;
    let (_stalled, _) = listener.accept().await.unwrap();
    let mut reply = String::new();
    let form = format!("u=admin&id=6&quantity=1&hash={}", hash("61", "secret"));
    program.post_streaming("card_from_group_sell", form, |bytes| reply += str::from_utf8(bytes).unwrap()).await;
    assert!(reply.contains("<number>0000000042</number>"), "{reply}");
    program.stop();
}

#[test]
fn invalid_endpoint_is_refused_at_startup() {
    for invalid in ["https://127.0.0.1:4318", "127.0.0.1:4318", "http://", "collector", "http://u:p@127.0.0.1:4318"] {
        assert!(start_error(invalid).contains("it must look like http://127.0.0.1:4318"), "{invalid}");
    }
}
