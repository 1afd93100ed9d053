//! Floods of wrong passwords, unknown user names and requests that wait for a lock: what the flood does not get done at
//! once is refused, and requests of other clients are served meanwhile (`reliability.md`, "Overload and hostile
//! clients").

use axum::body::Body;
use axum::http::{Request, StatusCode};
use tokio::task::JoinSet;

use crate::harness::proxy::CountingProxy;
use crate::harness::{
    FIXTURE_SQL, Reply, Server, hash, postgres, server_on_database, server_with_connect_options, with_timeout,
};

const SELL: &str = "card_from_group_sell";
const PASSWORD: &str = "secret+password";
/// The test client's address is that of a proxy, so that requests can have any client address.
const SETTINGS: &[(&str, &str)] =
    &[("cache", "on"), ("failed_attempts_max", "0"), ("trusted_proxies", "192.0.2.7"), ("max_requests", "60")];
/// As many as `max_requests`: with one request that waits without a permit, there is a permit for another client.
const FLOOD_LEN: usize = 60;
const FLOODING_CLIENT: &str = "198.51.100.1";
const OTHER_CLIENT: &str = "198.51.100.2";

/// Sends a sale from a group without cards for this client address, with the admin's key.
async fn sell_from(server: &Server, client: &str, user_and_password: &str) -> Reply {
    let form = format!("{user_and_password}&id=11&hash={}", hash("11", "secret"));
    let request = Request::post(format!("/billing/api/{SELL}")).header("x-forwarded-for", client);
    server.send(request.header("content-type", "application/x-www-form-urlencoded").body(Body::from(form))).await
}

/// Sends one sale for each form at once.
fn flood(server: &Server, forms: impl Iterator<Item = String>) -> JoinSet<Reply> {
    let send = |form: String| {
        let server = server.clone();
        async move { sell_from(&server, FLOODING_CLIENT, &form).await }
    };
    forms.map(send).collect()
}

#[track_caller]
fn assert_served(reply: &Reply) {
    reply.assert_page_error("Free cards was not found");
}

fn is_refused(reply: &Reply) -> bool {
    if reply.status != StatusCode::SERVICE_UNAVAILABLE {
        return false;
    }
    assert_eq!(reply.header("retry-after"), Some("1"));
    reply.assert_status_error("Too many requests at once");
    true
}

/// Waits for the first refused reply of a flood; returns the number of the other replies before it.
async fn wait_for_refusal(flood: &mut JoinSet<Reply>) -> usize {
    let mut answered = 0;
    while let Some(reply) = with_timeout("a reply", flood.join_next()).await {
        if is_refused(&reply.unwrap()) {
            return answered;
        }
        answered += 1;
    }
    panic!("no request of the flood was refused");
}

/// Waits for the other replies of a flood, each of them `Bad login` or refused; returns the number of the former.
async fn count_bad_logins(flood: JoinSet<Reply>) -> usize {
    let replies = with_timeout("the replies", flood.join_all()).await;
    let bad_logins = replies.iter().filter(|reply| !is_refused(reply));
    bad_logins.inspect(|reply| reply.assert_status_error("Bad login")).count()
}

/// A server on which the users have argon2id hashes, after a login of `admin`.
async fn server_with_argon2() -> (Server, String) {
    let database = postgres::create_database(FIXTURE_SQL).await;
    let server = server_on_database(&database, SETTINGS).await;
    for user in ["admin", "accountant"] {
        assert_served(&sell_from(&server, OTHER_CLIENT, &format!("u={user}&p={PASSWORD}")).await);
    }
    (server, database)
}

#[tokio::test]
async fn wrong_passwords_delay_no_other_client() {
    let (server, _) = server_with_argon2().await;
    let mut flood = flood(&server, (0..FLOOD_LEN).map(|number| format!("u=admin&p=wrong{number}")));
    wait_for_refusal(&mut flood).await;
    // Without a password, with one that is known, and with one that must be checked.
    assert_served(&sell_from(&server, OTHER_CLIENT, "u=admin").await);
    assert_served(&sell_from(&server, OTHER_CLIENT, &format!("u=accountant&p={PASSWORD}")).await);
    sell_from(&server, OTHER_CLIENT, "u=admin&p=mistyped").await.assert_status_error("Bad login");
    // Also for the flooding address.
    assert_served(&sell_from(&server, FLOODING_CLIENT, "u=admin").await);
    assert!(count_bad_logins(flood).await > 0);
    let page = server.metrics().await;
    assert!(page.contains("mortise_requests_waiting{queue=\"password_checks\"} 0\n"), "{page}");
    assert!(page.contains("mortise_requests_in_flight 0\n"), "{page}");
}

/// A shop that sends its password with each request: after a restart of the server all of them need a check.
#[tokio::test]
async fn same_password_is_checked_once() {
    let (_, database) = server_with_argon2().await;
    let restarted = server_on_database(&database, SETTINGS).await;
    for reply in flood(&restarted, (0..FLOOD_LEN).map(|_| format!("u=admin&p={PASSWORD}"))).join_all().await {
        assert_served(&reply);
    }
    for reply in flood(&restarted, (0..FLOOD_LEN).map(|_| "u=admin&p=wrong".to_owned())).join_all().await {
        reply.assert_status_error("Bad login");
    }
}

/// A server behind a proxy that counts its queries.
async fn counted_server() -> (Server, CountingProxy) {
    let proxy = CountingProxy::new().await;
    let database = postgres::create_database(FIXTURE_SQL).await;
    let server = server_with_connect_options(proxy.connect_options(&database), SETTINGS).await;
    (server, proxy)
}

#[tokio::test]
async fn repeated_unknown_name_needs_no_query() {
    let (server, proxy) = counted_server().await;
    let send = async || sell_from(&server, FLOODING_CLIENT, "u=later").await.assert_status_error("Bad login");
    assert_eq!(proxy.min_round_trips(&server, send).await, 0);
    // A user who is created is known at once.
    server.execute("insert into users (username, usertype) values ('Later', 'admin')").await;
    let login = async { while sell_from(&server, OTHER_CLIENT, "u=later").await.body.contains("Bad login") {} };
    with_timeout("the new user", login).await;
    assert_served(&sell_from(&server, FLOODING_CLIENT, "u=later").await);
    server.execute("delete from users where username = 'Later'").await;
    let refusal = async { while !sell_from(&server, OTHER_CLIENT, "u=later").await.body.contains("Bad login") {} };
    with_timeout("the deletion", refusal).await;
}

#[tokio::test]
async fn names_beyond_255_characters_need_no_query() {
    let (server, proxy) = counted_server().await;
    let (longest, too_long) = ("ž".repeat(255), "ž".repeat(256));
    server
        .execute(&format!(
            "insert into users (username, usertype) values ('{longest}', 'admin'), ('{too_long}', 'admin')"
        ))
        .await;
    let user =
        |name: &str| format!("u={}", percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC));
    with_timeout("the new user", async {
        while sell_from(&server, OTHER_CLIENT, &user(&longest)).await.body.contains("Bad login") {}
    })
    .await;
    let form = user(&too_long);
    let send = async || sell_from(&server, FLOODING_CLIENT, &form).await.assert_status_error("Bad login");
    assert_eq!(proxy.min_round_trips(&server, send).await, 0);
}

#[tokio::test]
async fn different_unknown_names_share_few_queries() {
    let (server, proxy) = counted_server().await;
    assert_served(&sell_from(&server, OTHER_CLIENT, "u=admin").await);
    let before = proxy.round_trips();
    let mut flood = flood(&server, (0..FLOOD_LEN).map(|number| format!("u=unknown{number}")));
    let mut bad_logins = wait_for_refusal(&mut flood).await;
    bad_logins += count_bad_logins(flood).await;
    // Each of the four connections prepares the statement once. The settings are read again after each invalidation.
    let queries = proxy.round_trips() - before;
    assert!(queries <= bad_logins + 10, "{queries} queries for {bad_logins} replies");
    assert!(bad_logins < FLOOD_LEN / 2, "{bad_logins}");
}

/// Neither users that were found before nor those of other clients wait behind a flood.
#[tokio::test]
async fn unknown_names_delay_no_known_user() {
    // Without the cache each request needs a query, for known users too.
    let database = postgres::create_database(FIXTURE_SQL).await;
    let settings = [SETTINGS, &[("cache", "off")]].concat();
    let server = server_on_database(&database, &settings).await;
    assert_served(&sell_from(&server, FLOODING_CLIENT, "u=admin").await);
    let mut flood = flood(&server, (0..FLOOD_LEN).map(|number| format!("u=unknown{number}")));
    wait_for_refusal(&mut flood).await;
    assert_served(&sell_from(&server, FLOODING_CLIENT, "u=admin").await);
    // Named for the first time.
    assert_served(&sell_from(&server, OTHER_CLIENT, "u=accountant").await);
    count_bad_logins(flood).await;
}

/// The query of a new name gets no answer while the table is locked. Requests that share it give up together: each of
/// them would otherwise start its own wait when the one before it has ended.
#[tokio::test]
async fn requests_that_share_a_slow_query_give_up_together() {
    let database = postgres::create_database(FIXTURE_SQL).await;
    let settings = [SETTINGS, &[("database_acquire_timeout_ms", "2000"), ("max_requests", "0")]].concat();
    let server = server_on_database(&database, &settings).await;
    let mut lock = server.pool.begin().await.unwrap();
    sqlx::query("lock table users").execute(&mut *lock).await.unwrap();
    // One after the other, they would take longer than the time limit of the test.
    let flood = flood(&server, (0..250).map(|_| "u=admin".to_owned()));
    for reply in with_timeout("the replies", flood.join_all()).await {
        assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
        reply.assert_status_error("Service is temporarily unavailable");
    }
    lock.rollback().await.unwrap();
    assert_served(&sell_from(&server, FLOODING_CLIENT, "u=admin").await);
}

/// Requests with the same idempotency key wait for the first one, without a permit.
#[tokio::test]
async fn requests_that_wait_for_a_lock_delay_no_other_client() {
    let database = postgres::create_database(FIXTURE_SQL).await;
    let server = server_on_database(&database, &[SETTINGS, &[("idempotency_wait_ms", "3600000")]].concat()).await;
    let mut lock = server.pool.begin().await.unwrap();
    sqlx::query("select from cards where id = 1 for update").execute(&mut *lock).await.unwrap();
    let update = || {
        let server = server.clone();
        async move { server.post_signed("calling_card_update", "u=admin&card_id=1&name=new&request_id=k", "1").await }
    };
    let mut updates = JoinSet::new();
    updates.spawn(update());
    with_timeout("the first request", server.wait_for_lock_waiter()).await;
    // More than one client may let wait.
    (0..200).for_each(|_| drop(updates.spawn(update())));
    assert_eq!(wait_for_refusal(&mut updates).await, 0);
    assert_served(&sell_from(&server, OTHER_CLIENT, "u=admin").await);
    lock.rollback().await.unwrap();
    let replies = with_timeout("the replies", updates.join_all()).await;
    let updated = replies.iter().filter(|reply| !is_refused(reply));
    let count = updated.inspect(|reply| assert_eq!(reply.element_texts("success").len(), 1, "{}", reply.body)).count();
    assert!(count > 100, "{count}");
}
