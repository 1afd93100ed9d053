//! Large tables through the program itself, whose memory is watched: replies and ranges far larger than what it may hold.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use crate::harness::{WORLD, hash, postgres, server_on};

/// The reply with all of them is a hundred megabytes.
const CARDS: usize = 200_000;
/// What the program may hold beyond what it holds at rest, in kilobytes.
const ALLOWED: usize = 24 * 1024;

struct Program {
    child: Child,
    address: String,
}

impl Program {
    async fn on(database: &str) -> Self {
        let url = format!("postgres://postgres@localhost/{database}?host={}", postgres::socket().await.display());
        let mut child = Command::new(env!("CARGO_BIN_EXE_mortise"))
            .args(["serve", "--listen", "127.0.0.1:0"])
            .env("DATABASE_URL", url)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = lines
            .find_map(|line| Some(line.unwrap().split_once("listening on ")?.1.split("/billing").next()?.to_owned()));
        std::thread::spawn(move || lines.count());
        Self { child, address: address.unwrap() }
    }

    /// The reply, looked at as it comes.
    async fn ask(&self, operation: &str, form: String, mut look: impl FnMut(&[u8])) {
        let client = Client::builder(TokioExecutor::new()).build_http::<Full<axum::body::Bytes>>();
        let request =
            axum::http::Request::post(format!("{}/api/{operation}", self.address)).body(Full::from(form)).unwrap();
        let mut body = client.request(request).await.unwrap().into_body();
        while let Some(frame) = body.frame().await {
            look(frame.unwrap().data_ref().unwrap());
        }
    }

    /// The most memory that it ever held, in kilobytes.
    fn most_memory(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn cards_by_the_hundred_thousand_are_made_and_listed_in_little_memory() {
    let database = postgres::database(WORLD).await;
    let server = server_on(&database, &[]).await;
    server.sql("update cardgroups set number_length = 8, pin_length = 9 where id = 11").await;
    let program = Program::on(&database).await;
    program.ask("cc_groups_get", format!("u=admin&hash={}", hash("", "secret")), |_| {}).await;
    let at_rest = program.most_memory();

    let (from, till) = (10_000_000, 10_000_000 + CARDS - 1);
    let hashed = hash(&format!("11{from}{till}"), "secret");
    let form = format!("u=admin&card_group_id=11&cards_from={from}&cards_till={till}&hash={hashed}");
    let mut reply = Vec::new();
    program.ask("calling_cards_create", form, |chunk| reply.extend_from_slice(chunk)).await;
    let reply = String::from_utf8(reply).unwrap();
    assert!(reply.contains(&format!("Cards created: {CARDS}/{CARDS}")), "{reply}");
    let grown = program.most_memory() - at_rest;
    assert!(grown < ALLOWED, "making them took {grown} kB");

    let (mut bytes, mut lines, mut end) = (0, 0, Vec::new());
    let form = format!("u=admin&number=1_______&hash={}", hash("", "secret"));
    let look = |chunk: &[u8]| {
        bytes += chunk.len();
        lines += chunk.iter().filter(|byte| **byte == b'\n').count();
        end = chunk[chunk.len().saturating_sub(20)..].to_vec();
    };
    program.ask("calling_cards_get", form, look).await;
    assert!(bytes > 90_000_000, "{bytes}");
    // Fourteen lines a card, and the declaration, the root's and the list's.
    assert_eq!(lines, 14 * CARDS + 5);
    assert!(end.ends_with(b"  </cards>\n</page>\n"));
    let grown = program.most_memory() - at_rest;
    assert!(grown < ALLOWED, "listing them took {grown} kB");
}
