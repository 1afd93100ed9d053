//! The examples of the published pages, as printed there, with the demo data.

use axum::body::Body;
use axum::http::Request;
use mortise::db::seed;

use crate::harness::{Reply, hash, postgres, server_on_database};

/// Sends an example to a server with new demo data, with the hash of `hashed` in place of the printed one.
async fn send_example(dialect: &str, path_and_query: &str, hashed: &str) -> Reply {
    let server = server_on_database(&postgres::create_database("").await, &[("dialect", dialect)]).await;
    seed::seed_if_empty(&server.pool, true, async |_| Ok(())).await.unwrap();
    let uri = format!("{path_and_query}&hash={}", hash(hashed, seed::DEMO_KEY));
    server.send(Request::post(uri).body(Body::empty())).await
}

#[tokio::test]
async fn every_published_example_works_once_it_is_signed() {
    for dialect in ["documented", "x7"] {
        for (path_and_query, hashed, element, text) in [
            ("/billing/api/buy_card_from_callingroup?u=username&id=6&quantity=2", "62", "currency", "USD"),
            ("/api/cc_by_cli?u=user&p=user1&callerid=123&cardgroup=3&amount=100", "100123", "status", "ok"),
            ("/api/cc_by_cli?u=user&p=user1&callerid=123&cardgroup=3", "123", "status", "ok"),
            ("/api/cc_by_cli?u=user&p=user1&callerid=123&cardgroup=3&pin=321", "321123", "status", "ok"),
            (
                "/billing/api/tariff_wholesale_update?u=username&id=8&currency=EUR&name=test&test=1",
                "8testEUR",
                "status",
                "ok",
            ),
            (
                "/billing/api/tariff_wholesale_update?u=username&currency=EUR&name=test&test=1",
                "testEUR",
                "tariff_id",
                "9",
            ),
            (
                "/billing/api/cc_group_create?u=admin&name=card_group_test",
                "card_group_test",
                "success",
                "Card Group was successfully created",
            ),
        ] {
            let reply = send_example(dialect, path_and_query, hashed).await;
            assert_eq!(reply.element_texts(element).first(), Some(&text), "{dialect} {path_and_query}: {}", reply.body);
            assert!(!reply.body.contains("<error>"), "{}", reply.body);
        }
    }
}

/// The examples of `card_by_cli_update` in the order of the page, on one database.
#[tokio::test]
async fn examples_of_card_by_cli_update_work_one_after_the_other() {
    let server = server_on_database(&postgres::create_database("").await, &[]).await;
    seed::seed_if_empty(&server.pool, true, async |_| Ok(())).await.unwrap();
    for (rest, hashed, balance) in
        [("&amount=100", "100123", "84.03"), ("", "123", "84.03"), ("&pin=321", "321123", "92.44")]
    {
        let form = format!("u=user&p=user1&callerid=123&cardgroup=3{rest}&hash={}", hash(hashed, seed::DEMO_KEY));
        let reply = server.post("cc_by_cli", &form).await;
        assert_eq!(reply.element_texts("balance"), [balance], "{rest}: {}", reply.body);
    }
}

/// The amounts of the page of `card_payment_add` are in EUR.
#[tokio::test]
async fn euro_is_an_active_currency() {
    let reply = send_example("documented", "/api/card_from_group_sell?u=username&id=6&curr=EUR", "6").await;
    assert_eq!(reply.element_texts("currency"), ["EUR"]);
}
