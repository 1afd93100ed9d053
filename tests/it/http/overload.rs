//! Clients that misbehave, too many of them, and a stop in the midst of it: over real sockets, while an honest client is served.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::harness::program::Program;
use crate::harness::{FIXTURE_SQL, Server, hash, postgres, server_on_database, server_with_settings};
use crate::http::monitoring::page_with;

const LIVEZ: &str = "GET /livez HTTP/1.1\r\nhost: shop.test\r\n\r\n";

async fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.unwrap()
}

async fn connect_and_send(address: SocketAddr, bytes: &str) -> TcpStream {
    let mut stream = connect(address).await;
    stream.write_all(bytes.as_bytes()).await.unwrap();
    stream
}

/// All that comes until the server closes the connection. It does, or the test never ends well.
async fn until_closed(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = async {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = stream.read(&mut buffer).await {
            bytes.extend_from_slice(&buffer[..length]);
        }
    };
    tokio::time::timeout(Duration::from_secs(60), read).await.expect("the connection isn't closed");
    String::from_utf8(bytes).unwrap()
}

/// One reply with its `content-length`, or as much of it as comes.
async fn reply(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let whole = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        let (header, body) = text.split_once("\r\n\r\n")?;
        let length: usize = header.split("content-length: ").nth(1)?.lines().next()?.parse().unwrap();
        (body.len() >= length).then_some(())
    };
    while whole(&bytes).is_none() {
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer).await {
            Ok(length @ 1..) => bytes.extend_from_slice(&buffer[..length]),
            _ => break,
        }
    }
    String::from_utf8(bytes).unwrap()
}

fn post(operation: &str, form: &str) -> String {
    let length = form.len();
    format!("POST /api/{operation} HTTP/1.1\r\nhost: shop.test\r\ncontent-length: {length}\r\n\r\n{form}")
}

fn sale() -> String {
    post("card_from_group_sell", &format!("u=admin&id=11&quantity=1&hash={}", hash("111", "secret")))
}

fn list() -> String {
    post("calling_cards_get", &format!("u=admin&hash={}", hash("", "secret")))
}

fn show() -> String {
    post("card_group_get", &format!("u=admin&id=6&hash={}", hash("6", "secret")))
}

/// An honest client is served.
async fn serves(address: SocketAddr) {
    let answer = reply(&mut connect_and_send(address, &show()).await).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("<name>ten dollars</name>"), "{answer}");
}

fn is_refused(answer: &str) -> bool {
    answer.starts_with("HTTP/1.1 503 ") && answer.to_lowercase().contains("\r\nretry-after: 1\r\n")
}

/// Cards of group 11, to sell and to list.
async fn stock(server: &Server, cards: usize) {
    let cards = format!(
        "update cardgroups set number_length = 7, pin_length = 7 where id = 11;
         insert into cards (cardgroup_id, number, pin, balance)
         select 11, (1000000 + i)::text, (2000000 + i)::text, 7 from generate_series(1, {cards}) i"
    );
    server.execute(&cards).await;
}

const SOLD: &str = "select count(*) from payments where kind = 'sale'";

#[tokio::test(flavor = "multi_thread")]
async fn a_header_must_come_in_time() {
    let server = server_with_settings(&[("header_timeout_ms", "3000")]).await;
    let address = server.listen().await;
    let mut silent = connect(address).await;
    let (mut slow, mut write) = connect_and_send(address, "GET /livez HTTP/1.1\r\nx-slow: ").await.into_split();
    // A byte now and then doesn't help.
    let writer = tokio::spawn(async move {
        while write.write_all(b"z").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await
        }
    });
    serves(address).await;
    assert_eq!(until_closed(&mut silent).await, "");
    assert!(matches!(slow.read(&mut [0; 1]).await, Ok(0) | Err(_)));
    writer.await.unwrap();
    serves(address).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_kept_for_a_while_only() {
    let server = server_with_settings(&[("header_timeout_ms", "3600000"), ("keep_alive_timeout_ms", "1000")]).await;
    let address = server.listen().await;
    let mut kept = connect_and_send(address, LIVEZ).await;
    assert!(reply(&mut kept).await.starts_with("HTTP/1.1 200 "));
    serves(address).await;
    assert_eq!(until_closed(&mut kept).await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_has_its_limits() {
    for headers in ["100", "40"] {
        let server = server_with_settings(&[("max_headers", headers), ("max_header", "9000")]).await;
        let address = server.listen().await;
        let with = |count: usize| format!("GET /livez HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(count));
        let most = headers.parse().unwrap();
        assert!(reply(&mut connect_and_send(address, &with(most)).await).await.starts_with("HTTP/1.1 200 "));
        let mut many = connect_and_send(address, &with(most + 1)).await;
        assert!(until_closed(&mut many).await.starts_with("HTTP/1.1 431 "));

        // A header without end is refused at its limit, not at its end.
        let mut endless = connect_and_send(address, "GET /livez HTTP/1.1\r\nx: ").await;
        while endless.write_all(&[b'z'; 500]).await.is_ok() {}
        assert!(until_closed(&mut endless).await.starts_with("HTTP/1.1 431 "));
        let large = format!("GET /livez HTTP/1.1\r\nx: {}\r\n\r\n", "z".repeat(9000));
        assert!(until_closed(&mut connect_and_send(address, &large).await).await.starts_with("HTTP/1.1 431 "));
        serves(address).await;
    }
}

/// One that is sent slowly gets its time, and no request has to wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_must_come_in_time() {
    let server = server_with_settings(&[("body_timeout_ms", "1000"), ("max_requests", "1")]).await;
    let address = server.listen().await;
    let half = "POST /api/card_group_get HTTP/1.1\r\nhost: shop.test\r\ncontent-length: 100\r\n\r\nu=admin&";
    let mut slow = connect_and_send(address, half).await;
    let mut none = connect_and_send(address, &half[..half.len() - 8]).await;
    serves(address).await;
    for stream in [&mut slow, &mut none] {
        let answer = until_closed(stream).await;
        assert!(
            answer.starts_with("HTTP/1.1 408 ") && answer.contains("Request body did not come in time"),
            "{answer}"
        );
        assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    }
    serves(address).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_has_its_limit() {
    let server = server_with_settings(&[("max_body", "100000")]).await;
    let address = server.listen().await;
    let header = |more: &str| format!("POST /api/card_group_get HTTP/1.1\r\nhost: shop.test\r\n{more}\r\n\r\n");
    // Refused before it comes, where it says how long it is.
    let mut said = connect_and_send(address, &header("content-length: 100001")).await;
    let mut endless = connect_and_send(address, &header("transfer-encoding: chunked")).await;
    let chunk = format!("400\r\n{}\r\n", "z".repeat(0x400));
    while endless.write_all(chunk.as_bytes()).await.is_ok() {}
    for stream in [&mut said, &mut endless] {
        let answer = until_closed(stream).await;
        assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("Request is too large"), "{answer}");
    }
    // In many pieces, and just within the limit.
    let (form, mut pieces) = ("x=".to_owned() + &"z".repeat(99_998), connect(address).await);
    pieces.write_all(header("content-length: 100000").as_bytes()).await.unwrap();
    for piece in form.as_bytes().chunks(999) {
        pieces.write_all(piece).await.unwrap();
    }
    let answer = reply(&mut pieces).await;
    assert!(answer.contains("Bad login"), "{answer}");
    serves(address).await;
}

/// Large bodies compete among themselves for memory; others have room.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_come_slowly_have_so_much_memory_together() {
    let server = server_with_settings(&[("max_body_memory", "50000"), ("failed_attempts_max", "0")]).await;
    let address = server.listen().await;
    let body = |length: usize| post("card_group_get", &format!("x={}", "z".repeat(length - 2)));
    let (large, slow) = (body(60_000), body(60_000));
    let come = 50_000 - slow.find("x=").unwrap();
    let mut slow_client = connect_and_send(address, &slow[..50_000]).await;
    // A large one beside it while the slow one still comes in might take what it needs.
    page_with(&server, &[&format!("mortise_request_bodies_bytes {}\n", come - 16 * 1024)]).await;
    let answer = reply(&mut connect_and_send(address, &large).await).await;
    assert!(is_refused(&answer), "{answer}");
    serves(address).await;
    slow_client.write_all(&slow.as_bytes()[50_000..]).await.unwrap();
    assert!(reply(&mut slow_client).await.contains("Bad login"));
    assert!(reply(&mut connect_and_send(address, &large).await).await.contains("Bad login"));
}

/// Asks without an end and reads nothing: ordinary replies pile up until none can be written.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_nothing_is_left() {
    let server = server_with_settings(&[("write_timeout_ms", "1000")]).await;
    let address = server.listen().await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut deaf = socket.connect(address).await.unwrap();
    let ended = tokio::spawn(async move {
        let requests = LIVEZ.repeat(100);
        while deaf.write_all(requests.as_bytes()).await.is_ok() {}
    });
    serves(address).await;
    tokio::time::timeout(Duration::from_secs(60), ended).await.expect("it is still waited for").unwrap();
    serves(address).await;
}

/// The same with a list: the one connection to the database that lists may have here comes free.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_nobody_takes_gives_its_connection_back() {
    let server = server_with_settings(&[("write_timeout_ms", "1000"), ("database_acquire_timeout_ms", "60000")]).await;
    stock(&server, 40_000).await;
    let address = server.listen().await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut deaf = socket.connect(address).await.unwrap();
    deaf.write_all(list().as_bytes()).await.unwrap();
    deaf.readable().await.unwrap();
    serves(address).await;
    let close = list().replace("host:", "connection: close\r\nhost:");
    let listed = until_closed(&mut connect_and_send(address, &close).await).await;
    assert!(listed.starts_with("HTTP/1.1 200 ") && listed.trim_end().ends_with("</page>\n\r\n0"), "{}", listed.len());
    assert!(!until_closed(&mut deaf).await.contains("</page>"));
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_only_so_many_connections() {
    let server = server_with_settings(&[("max_connections", "3")]).await;
    let address = server.listen().await;
    let mut kept = connect_and_send(address, LIVEZ).await;
    reply(&mut kept).await;
    let idle = [connect(address).await, connect(address).await];
    let answer = until_closed(&mut connect_and_send(address, &show()).await).await;
    assert!(is_refused(&answer) && answer.contains("<error>Too many requests at once</error>"), "{answer}");
    // Who is in is served, and who goes makes room.
    kept.write_all(show().as_bytes()).await.unwrap();
    assert!(reply(&mut kept).await.contains("ten dollars"));
    drop(idle);
    while is_refused(&until_closed(&mut connect_and_send(address, "GET /livez HTTP/1.0\r\n\r\n").await).await) {}
    kept.write_all(LIVEZ.as_bytes()).await.unwrap();
    assert!(reply(&mut kept).await.contains("ok\n"));
}

/// A lock keeps a request waiting.
async fn locked(server: &Server) -> sqlx::Transaction<'static, sqlx::Postgres> {
    let mut lock = server.pool.begin().await.unwrap();
    sqlx::query("lock table card_stock").execute(&mut *lock).await.unwrap();
    lock
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_only_so_many_requests() {
    let server = server_with_settings(&[("max_requests", "1"), ("database_acquire_timeout_ms", "60000")]).await;
    stock(&server, 1).await;
    let address = server.listen().await;
    let lock = locked(&server).await;
    let mut first = connect_and_send(address, &sale()).await;
    server.wait_for_lock_waiter().await;
    let mut second = connect_and_send(address, &show()).await;
    assert!(is_refused(&reply(&mut second).await));
    second.write_all(LIVEZ.as_bytes()).await.unwrap();
    assert!(reply(&mut second).await.contains("ok\n"));
    lock.rollback().await.unwrap();
    let answer = reply(&mut first).await;
    assert!(answer.contains("<number>1000001</number>"), "{answer}");
    second.write_all(show().as_bytes()).await.unwrap();
    assert!(reply(&mut second).await.contains("ten dollars"));
}

/// As many as the machine allows, up to ten thousand.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_idle_connections_cost_others_nothing() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    // Other tests need files too.
    let count = maximum.unwrap_or(u64::MAX).saturating_sub(2000).min(10_000);
    let database = postgres::create_database(FIXTURE_SQL).await;
    let program =
        Program::start_on_database(&database, &[("max_connections", "0"), ("keep_alive_timeout_ms", "0")]).await;
    serves(program.address).await;
    let at_rest = program.peak_memory_kb();
    let mut idle = Vec::new();
    for _ in 0..count {
        idle.push(connect_and_send(program.address, LIVEZ).await);
        if idle.len() % 1000 == 0 {
            serves(program.address).await;
        }
    }
    for stream in &mut idle {
        assert!(reply(stream).await.starts_with("HTTP/1.1 200 "));
    }
    serves(program.address).await;
    let grown = program.peak_memory_kb() - at_rest;
    println!("{count} idle connections: {grown} kB over {at_rest} kB");
    assert!(grown < 256 * 1024, "{count} connections take {grown} kB");
    // All of them are still there.
    for stream in &mut idle {
        stream.write_all(LIVEZ.as_bytes()).await.unwrap();
        assert!(reply(stream).await.starts_with("HTTP/1.1 200 "));
    }
}

/// What so many clients hear who ask at the same moment: how many were answered and how many refused.
async fn all_at_once(address: SocketAddr, clients: usize, request: &str) -> (usize, usize) {
    let mut streams = Vec::new();
    for _ in 0..clients {
        streams.push(connect(address).await);
    }
    let mut tasks = JoinSet::new();
    for mut stream in streams {
        let request = request.to_owned();
        tasks.spawn(async move {
            stream.write_all(request.as_bytes()).await.unwrap();
            reply(&mut stream).await
        });
    }
    let answers = tasks.join_all().await;
    let refused = answers.iter().filter(|answer| is_refused(answer)).count();
    let other = answers.iter().find(|answer| !is_refused(answer) && !answer.starts_with("HTTP/1.1 200 "));
    assert_eq!(other, None);
    (clients - refused, refused)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_requests_at_once_on_five_connections() {
    const CLIENTS: usize = 2000;
    let database = postgres::create_database(FIXTURE_SQL).await;
    let server = server_on_database(&database, &[]).await;
    stock(&server, 3 * CLIENTS).await;
    let program = Program::start_on_database(
        &database,
        &[("database_connections", "5"), ("database_acquire_timeout_ms", "600000"), ("header_timeout_ms", "0")],
    )
    .await;
    serves(program.address).await;
    let at_rest = program.peak_memory_kb();
    let (answered, refused) = all_at_once(program.address, CLIENTS, &sale()).await;
    println!("{answered} of {CLIENTS} sales were answered, {refused} refused");
    assert!(answered >= 1000, "{answered}");
    server.assert_rows(SOLD, &[&answered.to_string()]).await;
    serves(program.address).await;
    drop(program);

    // With all five held up nobody is answered: refused at once, or when the wait is over.
    let program = Program::start_on_database(
        &database,
        &[("database_connections", "5"), ("database_acquire_timeout_ms", "2000"), ("header_timeout_ms", "0")],
    )
    .await;
    serves(program.address).await;
    let lock = locked(&server).await;
    assert_eq!(all_at_once(program.address, CLIENTS, &sale()).await, (0, CLIENTS));
    lock.rollback().await.unwrap();
    server.assert_rows(SOLD, &[&answered.to_string()]).await;
    serves(program.address).await;
    let grown = program.peak_memory_kb() - at_rest;
    println!("{grown} kB over {at_rest} kB");
    assert!(grown < 100 * 1024, "{grown} kB");
}

/// Out of files the server keeps on serving those who are in, and lets others in again as soon as it can.
#[tokio::test(flavor = "multi_thread")]
async fn a_system_without_room_is_waited_for() {
    let database = postgres::create_database(FIXTURE_SQL).await;
    // A request waits for this one connection to come back; a further one would be a file too many.
    let program = Program::start_on_database(&database, &[("database_connections", "1")]).await;
    let pid = Some(Pid::from_child(&program.child));
    let mut kept = connect_and_send(program.address, LIVEZ).await;
    reply(&mut kept).await;
    serves(program.address).await;
    let usual = getrlimit(Resource::Nofile);
    prlimit(pid, Resource::Nofile, Rlimit { current: Some(3), ..usual }).unwrap();
    let mut waiting = connect_and_send(program.address, LIVEZ).await;
    for _ in 0..20 {
        kept.write_all(show().as_bytes()).await.unwrap();
        assert!(reply(&mut kept).await.contains("ten dollars"));
    }
    prlimit(pid, Resource::Nofile, usual).unwrap();
    assert!(reply(&mut waiting).await.contains("ok\n"));
}

/// A server that can be told to stop.
async fn stoppable(server: &Server) -> (SocketAddr, oneshot::Sender<()>, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let stopped = async move { stopped.await.unwrap() };
    (address, stop, tokio::spawn(server.clone().serve(listener, stopped)))
}

/// Every request that had been sent when the stop came is answered, on new connections and on kept ones.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_under_load_leaves_no_request_unanswered() {
    let server = server_with_settings(&[
        ("cache", "on"),
        ("shutdown_timeout_ms", "60000"),
        ("database_acquire_timeout_ms", "60000"),
    ])
    .await;
    stock(&server, 3000).await;
    let (address, stop, serving) = stoppable(&server).await;
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
                let sent = stream.write_all(sale().as_bytes()).await.is_ok();
                let in_time = sent && !stopping.load(Ordering::SeqCst);
                let answer = reply(&mut stream).await;
                if answer.contains("</page>") {
                    assert!(answer.contains("<number>"), "{answer}");
                    answered += 1;
                } else {
                    assert!(!in_time && answer.is_empty(), "sent in time, and answered {answer:?}");
                    return answered;
                }
            }
        });
    }
    while server.rows(SOLD).await[0].parse::<usize>().unwrap() < 200 {}
    stopping.store(true, Ordering::SeqCst);
    stop.send(()).unwrap();
    serving.await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
    let answered: usize = clients.join_all().await.into_iter().sum();
    println!("{answered} sales answered");
    server.assert_rows(SOLD, &[&answered.to_string()]).await;
}

/// Requests that nobody has looked at when the stop comes: on a connection that isn't accepted yet, and half of one.
#[tokio::test(flavor = "multi_thread")]
async fn what_had_arrived_before_the_stop_is_answered() {
    let server = server_with_settings(&[("shutdown_timeout_ms", "60000"), ("header_timeout_ms", "60000")]).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let request = show();
    let (begin, end) = request.split_at(30);
    let (mut whole, mut half, mut none) =
        (connect_and_send(address, &request).await, connect_and_send(address, begin).await, connect(address).await);
    let serving = tokio::spawn(server.serve(listener, std::future::ready(())));
    assert_eq!(until_closed(&mut none).await, "");
    half.write_all(end.as_bytes()).await.unwrap();
    for stream in [&mut whole, &mut half] {
        let answer = until_closed(stream).await;
        assert!(answer.contains("ten dollars") && answer.contains("\r\nconnection: close\r\n"), "{answer}");
    }
    serving.await.unwrap();
}

/// Half a request on a connection that was kept: to hyper it is still idle.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_has_begun_before_the_stop_is_answered() {
    let server = server_with_settings(&[("shutdown_timeout_ms", "60000")]).await;
    let (address, stop, serving) = stoppable(&server).await;
    let request = show();
    let (begin, end) = request.split_at(30);
    let (mut half, mut idle) = (connect_and_send(address, LIVEZ).await, connect_and_send(address, LIVEZ).await);
    reply(&mut half).await;
    reply(&mut idle).await;
    half.write_all(begin.as_bytes()).await.unwrap();
    stop.send(()).unwrap();
    // Nobody waits for those who say nothing.
    assert_eq!(until_closed(&mut idle).await, "");
    half.write_all(end.as_bytes()).await.unwrap();
    let answer = until_closed(&mut half).await;
    assert!(answer.contains("ten dollars") && answer.contains("\r\nconnection: close\r\n"), "{answer}");
    serving.await.unwrap();
}

/// The program itself, told by a signal: the request that runs is answered, and then it ends well.
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_waits_for_the_request_that_runs() {
    let database = postgres::create_database(FIXTURE_SQL).await;
    let server = server_on_database(&database, &[]).await;
    stock(&server, 1).await;
    let mut program = Program::start_on_database(
        &database,
        &[("shutdown_timeout_ms", "60000"), ("database_acquire_timeout_ms", "60000")],
    )
    .await;
    let mut idle = connect_and_send(program.address, LIVEZ).await;
    reply(&mut idle).await;
    let lock = locked(&server).await;
    let mut buyer = connect_and_send(program.address, &sale()).await;
    server.wait_for_lock_waiter().await;
    kill_process(Pid::from_child(&program.child), Signal::TERM).unwrap();
    assert_eq!(until_closed(&mut idle).await, "");
    lock.rollback().await.unwrap();
    let answer = until_closed(&mut buyer).await;
    assert!(answer.contains("<number>1000001</number>") && answer.contains("\r\nconnection: close\r\n"), "{answer}");
    assert!(program.child.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_waits_no_longer_than_it_may() {
    let server =
        server_with_settings(&[("shutdown_timeout_ms", "100"), ("database_acquire_timeout_ms", "60000")]).await;
    stock(&server, 1).await;
    let (address, stop, serving) = stoppable(&server).await;
    let lock = locked(&server).await;
    let mut buyer = connect_and_send(address, &sale()).await;
    server.wait_for_lock_waiter().await;
    stop.send(()).unwrap();
    serving.await.unwrap();
    assert_eq!(until_closed(&mut buyer).await, "");
    lock.rollback().await.unwrap();
    server.assert_rows(SOLD, &["0"]).await;
}
