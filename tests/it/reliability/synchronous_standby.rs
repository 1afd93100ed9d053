//! A synchronous standby that is away: PostgreSQL has written a commit locally, and waits without a limit before it
//! reports success. `statement_timeout` does not end this wait. In the dialect documented, `id=6&quantity=1` is sold by
//! one statement, and `id=6&number=42` in a transaction.

use std::time::Duration;

use axum::http::StatusCode;
use tokio::task::JoinHandle;

use super::idempotency::post_with_key;
use crate::harness::postgres::Postgres;
use crate::harness::{FIXTURE_SQL, Reply, Server, server_with_commit_timeout, with_timeout};

const SALES: [(&str, &str); 2] = [("u=admin&id=6&quantity=1", "61"), ("u=admin&id=6&number=1111111003", "6")];
/// So that a request which waits for the key's row in the database is soon answered with 409.
const SETTINGS: [(&str, &str); 1] = [("database_acquire_timeout_ms", "1000")];

/// Starts a PostgreSQL that waits for a standby which does not exist, and a server on it.
async fn start(commit_timeout: Duration) -> (Postgres, Server) {
    let postgres = Postgres::start("synchronous_standby_names = 'away'\n").await;
    let database = postgres.create_database(FIXTURE_SQL).await;
    let server = server_with_commit_timeout(postgres.options(&database), &SETTINGS, commit_timeout).await;
    (postgres, server)
}

fn spawn_sale(server: &Server, (form, hashed): (&'static str, &'static str)) -> JoinHandle<Reply> {
    let server = server.clone();
    tokio::spawn(async move { post_with_key(&server, form, "card_from_group_sell", form, hashed).await })
}

/// Waits until a commit of the server waits for the standby, then calls this function for the waiting sessions.
async fn for_waiting_commits(server: &Server, function: &str) {
    let call = format!(
        "select {function}(pid) from pg_stat_activity
         where wait_event = 'SyncRep' and application_name = 'mortise' and datname = current_database()"
    );
    let called = async { while server.rows(&call).await.is_empty() {} };
    with_timeout("a commit that waits for the standby", called).await;
}

/// An operator ends the wait: the sale stands on this server, and the client receives its cards.
#[tokio::test(flavor = "multi_thread")]
async fn cancelled_wait_is_a_success() {
    let (_postgres, server) = start(Duration::from_secs(150)).await;
    for (index, sale) in SALES.into_iter().enumerate() {
        let reply = spawn_sale(&server, sale);
        for_waiting_commits(&server, "pg_cancel_backend").await;
        let reply = with_timeout("a reply", reply).await.unwrap();
        assert_eq!(reply.element_texts("pin").len(), 1, "{}", reply.body);
        assert_eq!(reply.header("idempotency-replayed"), None);
        server.assert_rows("select count(*) from payments", &[&(index + 1).to_string()]).await;
    }
}

/// The outcome is unknown to the server. A retry with the same key gets the cards of the first request.
#[tokio::test(flavor = "multi_thread")]
async fn terminated_wait_is_an_unknown_outcome() {
    let (postgres, server) = start(Duration::from_secs(150)).await;
    for (index, sale) in SALES.into_iter().enumerate() {
        let reply = spawn_sale(&server, sale);
        for_waiting_commits(&server, "pg_terminate_backend").await;
        assert_unknown_but_retryable(&with_timeout("a reply", reply).await.unwrap());
        let replay = with_timeout("a replay", spawn_sale(&server, sale)).await.unwrap();
        assert_sold_once(&server, &replay, index + 1).await;
    }
    drop(postgres);
}

/// A client is answered after the commit timeout. While the standby is away, its retry gets 409; afterwards it gets
/// the cards of the first request.
#[tokio::test(flavor = "multi_thread")]
async fn commit_without_an_answer_is_an_unknown_outcome() {
    for sale in SALES {
        let (postgres, server) = start(Duration::from_secs(2)).await;
        let first = with_timeout("a reply", spawn_sale(&server, sale)).await.unwrap();
        assert_unknown_but_retryable(&first);
        let retry = with_timeout("a reply to the retry", spawn_sale(&server, sale)).await.unwrap();
        assert_eq!((retry.status, retry.header("retry-after")), (StatusCode::CONFLICT, Some("1")), "{}", retry.body);
        server.assert_rows("select count(*) from payments", &["0"]).await;

        // The standby is no longer required.
        postgres.execute("alter system set synchronous_standby_names = ''").await;
        postgres.execute("select pg_reload_conf()").await;
        let replay = async {
            loop {
                let retry = spawn_sale(&server, sale).await.unwrap();
                if retry.status != StatusCode::CONFLICT {
                    return retry;
                }
            }
        };
        let replay = with_timeout("a replay", replay).await;
        assert_sold_once(&server, &replay, 1).await;
    }
}

/// The first correct password of a user is stored as an argon2id hash. Without an answer to this commit, nothing is
/// sold.
#[tokio::test(flavor = "multi_thread")]
async fn login_without_an_answer_to_the_commit_sells_nothing() {
    let (postgres, server) = start(Duration::from_secs(2)).await;
    let form = "u=admin&p=secret%20password&id=6&quantity=1";
    let refused = with_timeout("a reply", server.post_signed("card_from_group_sell", form, "61")).await;
    refused.assert_status_error("Service is temporarily unavailable");
    postgres.execute("alter system set synchronous_standby_names = ''").await;
    postgres.execute("select pg_reload_conf()").await;
    let sold = with_timeout("a sale", server.post_signed("card_from_group_sell", form, "61")).await;
    assert_eq!(sold.element_texts("pin").len(), 1, "{}", sold.body);
    server.assert_rows("select count(*) from payments", &["1"]).await;
}

#[track_caller]
fn assert_unknown_but_retryable(reply: &Reply) {
    assert_eq!((reply.status, reply.header("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, Some("1")));
    reply.assert_status_error("The database was lost during the request: send it again with the same idempotency key");
}

async fn assert_sold_once(server: &Server, replay: &Reply, sales: usize) {
    assert_eq!(replay.header("idempotency-replayed"), Some("true"), "{}", replay.body);
    let number = replay.element_texts("number")[0];
    server.assert_rows(&format!("select sold from cards where number = '{number}'"), &["1"]).await;
    server.assert_rows("select count(*) from payments", &[&sales.to_string()]).await;
}
