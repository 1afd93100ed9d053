//! The parameter `payment_ref` (`back-office.md`, "References of payments") of the three operations that write
//! payments of cards, without and with the setting `payment_ref_unique`.

use axum::http::StatusCode;
use mortise::back_office::void::{Void, VoidOutcome};
use mortise::store::change_log::Author;

use super::card_by_cli_update::{insert_fixtures, send};
use crate::harness::proxy::FaultProxy;
use crate::harness::{
    FIXTURE_SQL, Reply, Server, hash, postgres, server, server_on_database, server_with_connect_options,
    server_with_settings,
};

const REFERENCES: &str = "select kind, user_id, reference from payments order by id";
const UNIQUE: [(&str, &str); 1] = [("payment_ref_unique", "true")];

async fn sell(server: &Server, form: &str) -> Reply {
    server.post_signed("card_from_group_sell", &format!("u=admin&id=6&{form}"), "6").await
}

async fn pay(server: &Server, form: &str) -> Reply {
    let form = format!("u=admin&number=1111111000&amount=5&{form}");
    server.post_signed("card_payment_add", &form, "11111110005").await
}

async fn allow_payments(server: &Server) {
    server.execute("insert into conflines (name, value) values ('API_Allow_payments_ower_API', '1')").await;
}

#[track_caller]
fn assert_used(reply: &Reply) {
    assert_eq!(reply.status, StatusCode::CONFLICT, "{}", reply.body);
    reply.assert_status_error("Payment reference already used");
}

#[tokio::test]
async fn reference_is_stored_with_each_payment() {
    for dialect in ["documented", "x7"] {
        let server = server_with_settings(&[("dialect", dialect)]).await;
        insert_fixtures(&server).await;
        allow_payments(&server).await;
        let sold = server.post_signed("card_from_group_sell", "u=admin&id=6&quantity=2&payment_ref=r1", "62").await;
        assert_eq!(sold.element_texts("number"), ["0000000042", "1111111001"], "{}", sold.body);
        sell(&server, "number=1111111002&payment_ref=r2").await;
        sell(&server, "payment_ref=r3&email=").await;
        pay(&server, "payment_ref=r4").await;
        // A new card, a top-up of a card and of a user, and the balance of a card moved to a user.
        send(&server, "callerid=999&amount=5&cardgroup_id=11&payment_ref=r5").await;
        send(&server, "callerid=999&amount=6&payment_ref=r6").await;
        send(&server, "callerid=555&amount=7&payment_ref=r7").await;
        send(&server, "callerid=555&pin=7001&payment_ref=r8").await;
        let expected = "select kind || ' ' || reference from payments order by id";
        let rows = server.rows(expected).await;
        let new_card: &[&str] = if dialect == "x7" { &["sale r5"] } else { &["sale r5", "top_up r5"] };
        let before = ["sale r1", "sale r1", "sale r2", "sale r3", "top_up r4"];
        let after = ["top_up r6", "refill r7", "transfer r8"];
        assert_eq!(rows, [&before[..], new_card, &after].concat(), "{dialect}");
        // Without uniqueness, a reference may be used again.
        assert_eq!(pay(&server, "payment_ref=r1").await.element_texts("number"), ["1111111000"]);
    }
}

/// Sales of a batch keep their own references.
#[tokio::test]
async fn batched_sales_have_their_own_references() {
    let server = server_with_settings(&[("sale_concurrency", "1"), ("database_connections", "8")]).await;
    server.execute("update cardgroups set number_length = 6, pin_length = 8 where id = 11").await;
    server
        .execute(
            "insert into cards (cardgroup_id, number, pin) select 11, (200000 + i)::text, (10000000 + i)::text
             from generate_series(1, 200) i",
        )
        .await;
    let sales = (0..60).map(|i| {
        let server = server.clone();
        tokio::spawn(async move {
            let form = if i % 3 == 0 {
                "u=admin&id=11&quantity=2".to_owned()
            } else {
                format!("u=admin&id=11&quantity=2&payment_ref=r{i}")
            };
            let sold = server.post_signed("card_from_group_sell", &form, "112").await;
            (i, sold.element_texts("number").into_iter().map(str::to_owned).collect::<Vec<_>>())
        })
    });
    for sale in sales.collect::<Vec<_>>() {
        let (i, numbers) = sale.await.unwrap();
        assert_eq!(numbers.len(), 2);
        let query = format!(
            "select distinct coalesce(reference, 'none') from payments where user_id in
             (select id from cards where number in ('{}', '{}'))",
            numbers[0], numbers[1]
        );
        let expected = if i % 3 == 0 { "none".to_owned() } else { format!("r{i}") };
        server.assert_rows(&query, &[&expected]).await;
    }
}

#[tokio::test]
async fn malformed_reference_is_refused() {
    let server = server().await;
    for reference in ["", "%20", &"x".repeat(256), "a%09b", "%00"] {
        let reply = sell(&server, &format!("payment_ref={reference}")).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{reference:?}: {}", reply.body);
    }
    // Spaces around it are not stored: the shop's list to compare with has none.
    sell(&server, "payment_ref=%20r0%20").await;
    server.assert_rows(REFERENCES, &["sale|6|r0"]).await;
    let longest = "é".repeat(255);
    sell(&server, &format!("payment_ref={longest}")).await;
    server.assert_rows(REFERENCES, &["sale|6|r0", &format!("sale|2|{longest}")]).await;
    // Other operations ignore it.
    let list = server.post("calling_cards_get", &format!("u=admin&payment_ref=&hash={}", hash("", "secret"))).await;
    assert_eq!(list.status, StatusCode::OK);
}

#[tokio::test]
async fn unique_reference_is_the_idempotency_key() {
    let server = server_with_settings(&UNIQUE).await;
    allow_payments(&server).await;
    let first = sell(&server, "payment_ref=r1").await;
    assert_eq!(first.element_texts("number"), ["0000000042"], "{}", first.body);
    let again = sell(&server, "payment_ref=r1").await;
    assert_eq!((&again.body, again.header("idempotency-replayed")), (&first.body, Some("true")));
    // A legacy name counts as the same operation.
    let legacy = server.post_signed("buy_card_from_callingroup", "u=admin&id=6&payment_ref=r1", "6").await;
    assert_eq!(legacy.body, first.body);
    let other = sell(&server, "payment_ref=r1&curr=EUR").await;
    assert_eq!(other.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", other.body);
    // Another operation, and later.
    assert_used(&pay(&server, "payment_ref=r1").await);
    server.execute("update idempotency_keys set created_at = now() - interval '25 hours'").await;
    assert_used(&sell(&server, "payment_ref=r1").await);
    server.execute("delete from idempotency_keys").await;
    assert_used(&sell(&server, "payment_ref=r1").await);
    server.assert_rows(REFERENCES, &["sale|6|r1"]).await;
    // A void does not free it.
    let mut transaction = server.pool.begin().await.unwrap();
    let void = Void { card_id: 6, reason: "a test", used: false, refund: None };
    let author = Author::Command { operator: "ann".to_owned() };
    assert!(matches!(void.run(&mut transaction, &author).await.unwrap(), VoidOutcome::Voided { .. }));
    transaction.commit().await.unwrap();
    assert_used(&sell(&server, "payment_ref=r1").await);
    server.assert_rows("select count(*) from idempotency_keys", &["0"]).await;
}

/// The scope of a reference is the user; requests with an idempotency key are not checked.
#[tokio::test]
async fn other_users_and_keyed_requests_may_use_a_reference() {
    let server = server_with_settings(&UNIQUE).await;
    sell(&server, "payment_ref=r1").await;
    let other = server.post_signed("card_from_group_sell", "u=accountant&id=6&payment_ref=r1", "6").await;
    assert_eq!(other.element_texts("number"), ["1111111001"], "{}", other.body);
    let keyed = sell(&server, "payment_ref=r1&request_id=k").await;
    assert_eq!(keyed.element_texts("number"), ["1111111002"], "{}", keyed.body);
    // A key that looks like a reference is another one.
    let keyed = sell(&server, "request_id=r1").await;
    assert_eq!(keyed.element_texts("number"), ["1111111003"], "{}", keyed.body);
}

/// A refusal writes no payment: the reference can be used again.
#[tokio::test]
async fn reply_without_payment_is_not_kept() {
    let server = server_with_settings(&UNIQUE).await;
    insert_fixtures(&server).await;
    server
        .post_signed("card_from_group_sell", "u=admin&id=11&payment_ref=r1", "11")
        .await
        .assert_page_error("Free cards was not found");
    server.assert_rows("select count(*) from idempotency_keys", &["0"]).await;
    assert_eq!(sell(&server, "payment_ref=r1").await.element_texts("number"), ["0000000042"]);
    // A transfer between cards is no payment.
    let moved = send(&server, "callerid=3701111&pin=1001&payment_ref=r2").await;
    assert_eq!(moved.element_texts("id"), ["4"], "{}", moved.body);
    server.assert_rows("select key from idempotency_keys", &["payment_ref\tr1"]).await;
    assert_eq!(send(&server, "callerid=3701111&amount=3&payment_ref=r2").await.element_texts("id"), ["4"]);
}

/// A payment reference keeps the reply of a payment only. After a transfer, which writes none, no reply says that the
/// request can be sent again.
#[tokio::test]
async fn transfer_with_a_reference_is_not_said_to_be_repeatable() {
    for (form, retry_after) in
        [("callerid=3701111&pin=1001&payment_ref=r1", None), ("callerid=3701111&amount=5&payment_ref=r1", Some("1"))]
    {
        let proxy = FaultProxy::new().await;
        let database = postgres::create_database(FIXTURE_SQL).await;
        let settings = [("cache", "on"), ("payment_ref_unique", "true")];
        let server = server_with_connect_options(proxy.connect_options(&database), &settings).await;
        insert_fixtures(&server).await;
        // Fills the cache with users and settings.
        send(&server, "callerid=3701111").await;
        proxy.cut_after_command("COMMIT");
        let lost = send(&server, form).await;
        assert_eq!(
            (lost.status, lost.header("retry-after")),
            (StatusCode::SERVICE_UNAVAILABLE, retry_after),
            "{}",
            lost.body
        );
    }
}

/// With an e-mail, a number, and several cards: each reply can be repeated.
#[tokio::test]
async fn every_kind_of_sale_can_be_repeated() {
    let server = server_with_settings(&UNIQUE).await;
    for (form, hashed, numbers) in [
        ("quantity=2&payment_ref=a", "62", &["0000000042", "1111111001"][..]),
        ("number=1111111003&payment_ref=b", "6", &["1111111003"]),
        ("email=anna@example.com&payment_ref=c", "anna@example.com6", &["1111111002"]),
    ] {
        let form = format!("u=admin&id=6&{form}");
        let first = server.post_signed("card_from_group_sell", &form, hashed).await;
        assert_eq!(first.element_texts("number"), numbers, "{}", first.body);
        let again = server.post_signed("card_from_group_sell", &form, hashed).await;
        assert_eq!((again.body, again.status), (first.body, StatusCode::OK));
    }
    server.assert_rows("select count(*), count(distinct reference) from payments", &["4|3"]).await;
    server.assert_rows("select count(*) from ccorders", &["1"]).await;
}

/// Two servers and two operations at the same time: one payment has the reference.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_requests_use_a_reference_once() {
    let database = postgres::create_database(FIXTURE_SQL).await;
    let servers = [server_on_database(&database, &UNIQUE).await, server_on_database(&database, &UNIQUE).await];
    allow_payments(&servers[0]).await;
    for round in 0..4 {
        let requests = (0..12).map(|i| {
            let server = servers[i % 2].clone();
            tokio::spawn(async move {
                let form = format!("payment_ref=r{round}");
                if i % 3 == 0 { pay(&server, &form).await } else { sell(&server, &form).await }
            })
        });
        for request in requests.collect::<Vec<_>>() {
            let reply = request.await.unwrap();
            assert!([StatusCode::OK, StatusCode::CONFLICT].contains(&reply.status), "{}", reply.body);
        }
        servers[0].assert_rows(&format!("select count(*) from payments where reference = 'r{round}'"), &["1"]).await;
    }
}
