//! The account cache and its invalidation, and what it saves: round trips and pings. The tests do not measure time:
//! they repeat requests until a condition holds.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::program::Program;
use crate::harness::proxy::{CountingProxy, FaultProxy};
use crate::harness::{
    FIXTURE_SQL, Server, hash, postgres, server_on_database, server_with_connect_options, with_timeout,
};

// No limit of failed attempts: the repeated requests have a wrong hash many times a second.
const CACHE_ON: &[(&str, &str)] = &[("cache", "on"), ("failed_attempts_max", "0")];

const CARDS: &str =
    "insert into cards (cardgroup_id, number, pin) select 11, i::text, i::text from generate_series(500000, 500999) i";

/// Sends a sale from group 11, which has no cards; returns the error message.
async fn sale_error(server: &Server, user: &str, key: &str) -> String {
    let form = format!("u={user}&id=11&hash={}", hash("11", key));
    server.post("card_from_group_sell", &form).await.element_texts("error").concat()
}

/// Repeats the sale until its error message is `message`.
async fn wait_for_error(server: &Server, user: &str, key: &str, message: &str) {
    let repeat = async {
        while sale_error(server, user, key).await != message {
            tokio::task::yield_now().await;
        }
    };
    with_timeout(message, repeat).await;
}

#[tokio::test]
async fn common_sale_takes_one_round_trip() {
    let proxy = CountingProxy::new().await;
    let database = postgres::create_database(FIXTURE_SQL).await;
    let server = server_with_connect_options(proxy.connect_options(&database), CACHE_ON).await;
    server.execute(CARDS).await;
    let sell = async |parameters: &str, hashed: &str| {
        let form = format!("u=accountant&id=11&quantity=7{parameters}");
        let reply = server.post_signed("card_from_group_sell", &form, hashed).await;
        assert_eq!(reply.element_texts("pin").len(), 7, "{}", reply.body);
    };
    assert_eq!(proxy.min_round_trips(&server, async || sell("", "117").await).await, 1);
    let next_key = AtomicUsize::new(0);
    let sell_with_key = async || {
        let key = next_key.fetch_add(1, Ordering::Relaxed);
        sell(&format!("&request_id={key}"), "117").await;
    };
    assert_eq!(proxy.min_round_trips(&server, sell_with_key).await, 1);
    // A sale with order rows is a transaction: begin, the sale, the order rows, commit.
    assert_eq!(proxy.min_round_trips(&server, async || sell("&email=a", "a117").await).await, 4);
}

/// A sale releases its connection clean: the next sale uses it without a ping, unless it was idle for a second.
#[tokio::test]
async fn connections_are_not_pinged_between_sales() {
    let proxy = CountingProxy::new().await;
    let database = postgres::create_database(FIXTURE_SQL).await;
    let server = server_with_connect_options(proxy.connect_options(&database), CACHE_ON).await;
    server.execute(CARDS).await;
    let sell = async || server.post_signed("card_from_group_sell", "u=accountant&id=11&quantity=1", "111").await;
    let sell_without_ping = async || loop {
        let checks = proxy.liveness_checks();
        for _ in 0..3 {
            assert_eq!(sell().await.element_texts("pin").len(), 1);
        }
        if proxy.liveness_checks() == checks {
            break;
        }
    };
    with_timeout("three sales without a ping", sell_without_ping()).await;
}

#[tokio::test]
async fn changes_invalidate_the_cache_of_every_server() {
    let database = postgres::create_database(FIXTURE_SQL).await;
    let servers = [server_on_database(&database, CACHE_ON).await, server_on_database(&database, CACHE_ON).await];
    for (change, user, key, message) in [
        (
            "update conflines set value = 'new' where name = 'API_Secret_Key'",
            "admin",
            "new",
            "Free cards was not found",
        ),
        ("update acc_group_rights set value = 0 where acc_group_id = 1", "accountant", "new", "Access Denied"),
        ("update users set blocked = 1 where id = 7", "accountant_read", "new", "Bad login"),
        ("update users set acc_group_id = 4 where id = 4", "reseller_read", "new", "Cardgroup was not found"),
        ("update users set username = 'someone' where id = 0", "admin", "new", "Bad login"),
        (
            "insert into users (username, usertype) values ('admin', 'admin')",
            "admin",
            "new",
            "Free cards was not found",
        ),
        ("delete from acc_rights where id = 2", "reseller_read", "new", "Access Denied"),
        ("truncate conflines", "admin", "new", "API Requests are disabled"),
    ] {
        // Fills the caches.
        for server in &servers {
            sale_error(server, user, key).await;
        }
        servers[0].execute(change).await;
        for server in &servers {
            wait_for_error(server, user, key, message).await;
        }
    }
}

#[tokio::test]
async fn change_with_replica_role_invalidates_the_cache() {
    let server = server_on_database(&postgres::create_database(FIXTURE_SQL).await, CACHE_ON).await;
    sale_error(&server, "admin", "secret").await;
    server
        .execute(
            "set session_replication_role = replica; update conflines set value = 'new' where name = 'API_Secret_Key';
             set session_replication_role = origin",
        )
        .await;
    wait_for_error(&server, "admin", "new", "Free cards was not found").await;
}

#[tokio::test]
async fn change_during_a_lost_listener_connection_is_noticed() {
    let server = server_on_database(&postgres::create_database(FIXTURE_SQL).await, CACHE_ON).await;
    for key in ["one", "two", "three"] {
        wait_for_error(&server, "admin", "secret", "Free cards was not found").await;
        server
            .execute(&format!(
                "select pg_terminate_backend(pid) from pg_stat_activity
                 where datname = current_database() and pid <> pg_backend_pid()
                     and application_name = 'mortise listener';
                 update conflines set value = '{key}' where name = 'API_Secret_Key'"
            ))
            .await;
        wait_for_error(&server, "admin", key, "Free cards was not found").await;
        server.execute("update conflines set value = 'secret' where name = 'API_Secret_Key'").await;
    }
}

/// A server that was paused (a suspended machine, a debugger, `SIGSTOP`) has not heard of changes, and its listener
/// does not know it yet. What it has cached has expired when it continues.
#[tokio::test(flavor = "multi_thread")]
async fn paused_server_does_not_answer_from_expired_cache() {
    let (database, proxy) = (postgres::create_database(FIXTURE_SQL).await, FaultProxy::new().await);
    let other_server = server_on_database(&database, &[]).await;
    let settings = [CACHE_ON, &[("metrics_listen", "127.0.0.1:0")]].concat();
    let mut command = Program::command(&database, &settings).await;
    let socket = proxy.directory().display();
    command.env("DATABASE_URL", format!("postgres://postgres@localhost/{database}?host={socket}&sslmode=disable"));
    let program = Program::start(command);
    let pid = Pid::from_child(&program.child);
    let sale = format!("u=admin&id=11&hash={}", hash("11", "secret"));
    let reply = async || {
        let mut reply = String::new();
        program
            .post_streaming("card_from_group_sell", sale.clone(), |part| reply += str::from_utf8(part).unwrap())
            .await;
        reply
    };
    let cached = async {
        while !(reply().await.contains("Free cards was not found")
            && program.metrics().await.contains("mortise_cache_valid 1\n"))
        {}
    };
    with_timeout("a valid cache", cached).await;

    // The request arrives while the server is paused, and is the first thing that it sees.
    kill_process(pid, Signal::STOP).unwrap();
    let request = format!(
        "POST /api/card_from_group_sell HTTP/1.1\r\nHost: shop\r\nConnection: close\r\nContent-Length: {}\r\n\
         Content-Type: application/x-www-form-urlencoded\r\n\r\n{sale}",
        sale.len()
    );
    let mut client = TcpStream::connect(program.address).await.unwrap();
    client.write_all(request.as_bytes()).await.unwrap();
    // The proxy keeps the notification from the listener.
    proxy.set_listener_stalled(true);
    other_server.execute("update conflines set value = 'new' where name = 'API_Secret_Key'").await;
    // The lifetime of the cache without a heartbeat is 0.8 s (docs/glossary.md).
    tokio::time::sleep(Duration::from_millis(900)).await;
    kill_process(pid, Signal::CONT).unwrap();
    let mut reply = String::new();
    with_timeout("the reply", client.read_to_string(&mut reply)).await.unwrap();
    assert!(reply.contains("Incorrect hash"), "{reply}");
    proxy.set_listener_stalled(false);
}

#[tokio::test]
async fn balance_changes_send_no_notification() {
    let database = postgres::create_database(FIXTURE_SQL).await;
    let server = server_on_database(&database, &[]).await;
    let mut listener = sqlx::postgres::PgListener::connect_with(&server.pool).await.unwrap();
    listener.listen("mortise_changes").await.unwrap();
    server.execute("update users set balance = balance + 1, credit = 5").await;
    server.execute("update currencies set exchange_rate = 2 where id = 2").await;
    assert_eq!(listener.recv().await.unwrap().payload(), "currencies");
}

/// The speed of the large statements depends on the planner settings.
#[tokio::test]
async fn connections_have_planner_and_timeout_settings() {
    let server =
        server_on_database(&postgres::create_database(FIXTURE_SQL).await, &[("database_acquire_timeout_ms", "61234")])
            .await;
    let mut connections = server.hold_connections().await;
    let connection = &mut connections[0];
    for (setting, expected) in [
        ("jit", "off"),
        ("plan_cache_mode", "force_generic_plan"),
        ("lock_timeout", "61234ms"),
        ("TimeZone", "UTC"),
        ("client_connection_check_interval", "1s"),
        ("enable_seqscan", "off"),
        ("enable_bitmapscan", "off"),
        ("enable_hashjoin", "off"),
        ("enable_mergejoin", "off"),
        ("enable_sort", "off"),
    ] {
        let query = sqlx::query_scalar("select current_setting($1)").bind(setting);
        let value: String = query.fetch_one(&mut **connection).await.unwrap();
        assert_eq!(value, expected, "{setting}");
    }
}

/// Trailing spaces of a user name are ignored: a client must not be able to fill the cache with them.
#[tokio::test]
async fn user_name_is_cached_without_trailing_spaces() {
    let proxy = CountingProxy::new().await;
    let database = postgres::create_database(FIXTURE_SQL).await;
    let server = server_with_connect_options(proxy.connect_options(&database), CACHE_ON).await;
    server.execute(CARDS).await;
    for spaces in [0, 200, 300] {
        let form = format!("u=admin{}&id=11", "+".repeat(spaces));
        let sell = async || {
            assert_eq!(server.post_signed("card_from_group_sell", &form, "11").await.element_texts("pin").len(), 1)
        };
        assert_eq!(proxy.min_round_trips(&server, sell).await, 1, "{spaces} spaces");
    }
}

/// Two names that are equal in lower case by some rules and different by others: they end in σ and ς.
#[tokio::test]
async fn names_with_different_sigmas_are_cached_separately() {
    let server = server_on_database(&postgres::create_database(FIXTURE_SQL).await, CACHE_ON).await;
    server
        .execute("update users set username = 'ασ' where id = 6; update users set username = 'ας' where id = 2")
        .await;
    wait_for_error(&server, "ας", "secret", "Access Denied").await;
    sale_error(&server, "ΑΣ", "secret").await;
    assert_eq!(sale_error(&server, "ας", "secret").await, "Access Denied");
}
