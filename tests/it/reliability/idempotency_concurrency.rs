//! Idempotency keys of concurrent requests, on one server and on two, and of requests that lose their database
//! connection.

use axum::http::StatusCode;

use super::idempotency::{CHANGES, EXTRA_FIXTURE_SQL, assert_replayed, post_with_key, sell, was_executed};
use crate::harness::proxy::FaultProxy;
use crate::harness::{
    FIXTURE_SQL, Reply, Server, postgres, server, server_on_database, server_with_connect_options, server_with_settings,
};

/// Renames card 1, which the tests lock.
async fn update_card(server: &Server) -> Reply {
    post_with_key(server, "k", "calling_card_update", "u=admin&card_id=1&name=new", "1").await
}

#[tokio::test]
async fn repeat_of_a_running_request_gets_a_conflict() {
    let database = postgres::create_database(FIXTURE_SQL).await;
    let first_server = server_on_database(&database, &[("idempotency_wait_ms", "1")]).await;
    // The second server waits for the key's row in the database, up to the lock timeout.
    let second_server = server_on_database(&database, &[("database_acquire_timeout_ms", "2000")]).await;
    let mut transaction = first_server.pool.begin().await.unwrap();
    sqlx::query("select from cards where id = 1 for update").execute(&mut *transaction).await.unwrap();
    let first = tokio::spawn({
        let server = first_server.clone();
        async move { update_card(&server).await }
    });
    first_server.wait_for_lock_waiter().await;
    for server in [&first_server, &second_server] {
        let repeat = update_card(server).await;
        assert_eq!((repeat.status, repeat.header("retry-after")), (StatusCode::CONFLICT, Some("1")), "{}", repeat.body);
        repeat.assert_status_error("A request with this idempotency key is being carried out");
    }
    // The same key of another operation is not affected.
    assert!(was_executed(&sell(&first_server, "k", 9).await));
    transaction.rollback().await.unwrap();
    let first = first.await.unwrap();
    assert!(was_executed(&first));
    for server in [&first_server, &second_server] {
        assert_replayed(&update_card(server).await, &first);
    }
}

#[tokio::test]
async fn repeat_waits_for_the_running_request() {
    let server = server_with_settings(&[("idempotency_wait_ms", "3600000")]).await;
    let mut transaction = server.pool.begin().await.unwrap();
    sqlx::query("select from cards where id = 1 for update").execute(&mut *transaction).await.unwrap();
    let spawn_update = || {
        let server = server.clone();
        tokio::spawn(async move { update_card(&server).await })
    };
    let first = spawn_update();
    server.wait_for_lock_waiter().await;
    let second = spawn_update();
    tokio::task::yield_now().await;
    transaction.rollback().await.unwrap();
    let (first, second) = (first.await.unwrap(), second.await.unwrap());
    let (executed, replayed) = if was_executed(&first) { (first, second) } else { (second, first) };
    assert_replayed(&replayed, &executed);
}

#[tokio::test]
async fn concurrent_requests_on_two_servers_execute_once() {
    let mut payments = Vec::new();
    for (operation, form, hashed, _) in CHANGES {
        let database = postgres::create_database(&format!("{FIXTURE_SQL}{EXTRA_FIXTURE_SQL}")).await;
        let settings = &[("idempotency_wait_ms", "3600000"), ("cache", "on")];
        let servers = [server_on_database(&database, settings).await, server_on_database(&database, settings).await];
        let send_until_answered = |server: Server| async move {
            loop {
                let reply = post_with_key(&server, "k", operation, form, hashed).await;
                if ![StatusCode::CONFLICT, StatusCode::SERVICE_UNAVAILABLE].contains(&reply.status) {
                    return reply;
                }
            }
        };
        let tasks: Vec<_> =
            (0..16).map(|number| tokio::spawn(send_until_answered(servers[number % 2].clone()))).collect();
        let mut replies = Vec::new();
        for task in tasks {
            replies.push(task.await.unwrap());
        }
        let executed: Vec<_> = replies.iter().filter(|reply| was_executed(reply)).collect();
        assert_eq!(executed.len(), 1, "{operation} {form}: {}", replies[0].body);
        let replayed = replies.iter().filter(|reply| !was_executed(reply));
        replayed.for_each(|reply| assert_replayed(reply, executed[0]));
        payments.extend(servers[0].rows("select kind from payments").await);
    }
    payments.sort_unstable();
    assert_eq!(payments, [vec!["sale"; 10], vec!["top_up"; 3]].concat());
}

/// Only the database knows the outcome of a request whose connection is lost at the commit.
#[tokio::test]
async fn retry_after_lost_commit_is_replayed() {
    for (command, form, hashed, cards) in [
        // A sale in one statement, one in a transaction, and one with order rows.
        ("SELECT 2", "u=admin&id=6&quantity=2", "62", 2),
        ("COMMIT", "u=admin&id=6&number=1111111003", "6", 1),
        ("COMMIT", "u=admin&id=6&quantity=2&email=a%40b.c", "a@b.c62", 2),
    ] {
        let proxy = FaultProxy::new().await;
        let database = postgres::create_database(FIXTURE_SQL).await;
        let server = server_with_connect_options(proxy.connect_options(&database), &[("cache", "on")]).await;
        // Fills the cache with users and settings.
        server.post_signed("card_from_group_sell", "u=admin&id=11", "11").await;
        proxy.cut_after_command(command);
        let lost = post_with_key(&server, "k", "card_from_group_sell", form, hashed).await;
        assert_eq!(
            (lost.status, lost.header("retry-after")),
            (StatusCode::SERVICE_UNAVAILABLE, Some("1")),
            "{}",
            lost.body
        );
        lost.assert_status_error(
            "The database was lost during the request: send it again with the same idempotency key",
        );
        let retry = post_with_key(&server, "k", "card_from_group_sell", form, hashed).await;
        assert_eq!(retry.element_texts("pin").len(), cards, "{}", retry.body);
        assert_eq!(retry.header("idempotency-replayed"), Some("true"));
        server.assert_rows("select count(*) from payments", &[&cards.to_string()]).await;

        // Without a key the outcome stays unknown, and the reply has no Retry-After.
        proxy.cut_after_command(command);
        let lost = server.post_signed("card_from_group_sell", form.replace("003", "002").as_str(), hashed).await;
        assert_eq!((lost.status, lost.header("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, None), "{}", lost.body);
        lost.assert_status_error("The database was lost during the request, which may have been carried out");
    }
}

/// The session ends before the order rows and the e-mail are written: nothing of the sale remains.
#[tokio::test]
async fn sale_with_email_and_key_is_atomic() {
    for (form, hashed) in [
        ("u=admin&id=6&quantity=2&email=a%40b.c", "a@b.c62"),
        // Sold by several statements: fewer cards are free than requested.
        ("u=admin&id=9&quantity=3&email=a%40b.c", "a@b.c93"),
    ] {
        let server = server().await;
        server.execute("insert into conflines (name, value, owner_id) values ('Email_Sending_Enabled', '1', 0)").await;
        let rows = "select (select count(*) from payments), (select count(*) from ccorders), (select count(*) from cclineitems),
            (select count(*) from cards where sold = 1 and id <> 4), (select sum(cardinality(card_ids)) from email_outbox),
            (select count(*) from idempotency_keys)";
        let mut transaction = server.pool.begin().await.unwrap();
        sqlx::query("lock table cclineitems in share mode").execute(&mut *transaction).await.unwrap();
        let spawn_sale = || {
            let server = server.clone();
            tokio::spawn(async move { post_with_key(&server, "k", "card_from_group_sell", form, hashed).await })
        };
        let first = spawn_sale();
        server.wait_for_lock_waiter().await;
        server.terminate_lock_waiters().await;
        let first = first.await.unwrap();
        assert_eq!(first.status, StatusCode::SERVICE_UNAVAILABLE, "{}", first.body);
        transaction.rollback().await.unwrap();
        server.assert_rows(rows, &["0|0|0|0|∅|0"]).await;
        let second = spawn_sale().await.unwrap();
        assert_eq!(second.element_texts("pin").len(), 2, "{}", second.body);
        assert_replayed(&spawn_sale().await.unwrap(), &second);
        server.assert_rows(rows, &["2|2|2|2|2|1"]).await;
    }
}

#[tokio::test]
async fn retry_after_terminated_session_is_executed() {
    let server = server().await;
    let mut transaction = server.pool.begin().await.unwrap();
    sqlx::query("select from cards where id = 1 for update").execute(&mut *transaction).await.unwrap();
    let spawn_update = || {
        let server = server.clone();
        tokio::spawn(async move { update_card(&server).await })
    };
    let first = spawn_update();
    server.wait_for_lock_waiter().await;
    server.terminate_lock_waiters().await;
    assert_eq!(first.await.unwrap().status, StatusCode::SERVICE_UNAVAILABLE);
    transaction.rollback().await.unwrap();
    assert!(was_executed(&spawn_update().await.unwrap()));
    server.assert_rows("select name from cards where id = 1", &["new"]).await;
}
