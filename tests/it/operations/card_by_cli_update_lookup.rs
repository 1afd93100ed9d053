//! `card_by_cli_update`: parameter names, hashes, caller ids, numbers and PINs of new cards, concurrent requests.

use super::card_by_cli_update::{UPDATE, assert_card, assert_error, insert_fixtures, send};
use crate::harness::{hash, server, server_with_settings, x7_server};

#[tokio::test]
async fn older_parameter_names_are_accepted() {
    let server = server().await;
    insert_fixtures(&server).await;
    // The published page's names: calleridid and cardgroup. The latter is never hashed.
    let admin_hash = |values: &str| hash(values, "secret");
    let reply = server
        .post("cc_by_cli", &format!("u=admin&callerid=900&cardgroup=6&amount=5&hash={}", admin_hash("5900")))
        .await;
    assert_eq!(reply.element_texts("cardgroup_id"), ["6"]);
    let reply = server.post("cc_by_cli", &format!("u=admin&calleridid=901&cardgroup=6&hash={}", admin_hash(""))).await;
    assert_eq!(reply.element_texts("callerid"), ["901"]);
    // A blank value names no group; in x7 it names a group that doesn't exist.
    let x7 = x7_server().await;
    insert_fixtures(&x7).await;
    assert_error(&send(&server, "callerid=902&cardgroup_id=").await, "Card was not found");
    assert_card(&send(&server, "callerid=700&cardgroup_id=").await, "7", "7", "1.37", "700");
    assert_error(&send(&x7, "callerid=700&cardgroup_id=").await, "You do not have permission to access cardgroup");
}

#[tokio::test]
async fn legacy_hash_needs_legacy_name_and_setting() {
    let server = server().await;
    let strict = server_with_settings(&[("legacy_hashes", "false")]).await;
    for server in [&server, &strict] {
        insert_fixtures(server).await;
        server
            .execute(
                "update users set username = 'user', password = '', usertype = 'accountant', acc_group_id = 1 where id = 2; update users set username = 'x' where id = 6;
                 update conflines set value = '456789' where name = 'API_Secret_Key' and owner_id = 0",
            )
            .await;
        server.execute(&format!("update users set password = '{}' where id = 2", hash("user1", ""))).await;
    }
    // The published page's examples, unchanged.
    let published_hash = "f7c3bc1d808e04732adf679965ccc34ca7ae3441";
    let first =
        format!("/billing/api/cc_by_cli?u=user&p=user1&callerid=123&cardgroup=6&amount=100&hash={published_hash}");
    let second = format!("/billing/api/cc_by_cli?u=user&p=user1&callerid=123&cardgroup=6&hash={published_hash}");
    assert_eq!(server.get(&first).await.element_texts("balance"), ["84.03"]);
    assert_eq!(server.get(&second).await.element_texts("balance"), ["84.03"]);
    server.get(&first.replace("cc_by_cli", UPDATE)).await.assert_status_error("Incorrect hash");
    strict.get(&first).await.assert_status_error("Incorrect hash");
    assert_eq!(
        strict.get(&second).await.element_texts("balance"),
        ["0.00"],
        "without an amount both hash rules give the same hash"
    );
}

#[tokio::test]
async fn legacy_hash_without_caller_id_is_refused() {
    let server = server().await;
    insert_fixtures(&server).await;
    let form = format!("u=admin&calleridid=900&amount=1000000&cardgroup=6&hash={}", hash("", "secret"));
    server.post("cc_by_cli", &form).await.assert_status_error("Incorrect hash");
}

#[tokio::test]
async fn caller_ids_have_at_most_thirty_characters() {
    let (server, x7) = (server().await, x7_server().await);
    let (longest, too_long) = ("é".repeat(30), "é".repeat(31));
    for server in [&server, &x7] {
        assert_eq!(
            send(server, &format!("callerid={longest}&cardgroup_id=6")).await.element_texts("callerid"),
            [longest.as_str()]
        );
    }
    assert_error(&send(&server, &format!("callerid={too_long}&cardgroup_id=6")).await, "Failed to make transaction");
    // In x7 the stored caller id is cut and the reply has the full one.
    assert_eq!(
        send(&x7, &format!("callerid={too_long}&cardgroup_id=6")).await.element_texts("callerid"),
        [too_long.as_str()]
    );
    x7.assert_rows("select count(*) from cards where length(callerid) = 30", &["1"]).await;
    let unusual = "o'b & <1> 漢";
    let reply =
        server.post_signed(UPDATE, "u=admin&callerid=o'b+%26+%3C1%3E+漢&cardgroup_id=6", &format!("{unusual}6")).await;
    assert_eq!(reply.element_texts("callerid"), ["o'b &amp; &lt;1&gt; 漢"]);
}

#[tokio::test]
async fn partial_caller_ids_match_by_setting_and_in_x7() {
    let exact = server().await;
    let partial = server_with_settings(&[("match_partial_callerids", "true")]).await;
    let x7 = x7_server().await;
    for server in [&exact, &partial, &x7] {
        insert_fixtures(server).await;
    }
    assert_error(&send(&exact, "callerid=5550").await, "Card was not found");
    assert_eq!(send(&partial, "callerid=5550").await.element_texts("device_id"), ["1"]);
    assert_eq!(send(&x7, "callerid=5550").await.element_texts("device_id"), ["1"]);
    // SQL wildcards are matched literally.
    assert_error(&send(&partial, "callerid=5_5").await, "Card was not found");
}

#[tokio::test]
async fn caller_id_of_a_deleted_card_is_free() {
    let server = server().await;
    insert_fixtures(&server).await;
    server.execute("update cards set hidden = 1 where id = 7").await;
    assert_card(&send(&server, "callerid=700&cardgroup_id=6").await, "101", "6", "0.00", "700");
    server.assert_rows("select callerid, balance from cards where id = 7", &["∅|1.366026910730141"]).await;
    server.execute("update cards set hidden = 1, callerid = null where id = 101; update cards set callerid = '700' where id = 7").await;
    assert_card(&send(&server, "callerid=700&pin=0042").await, "6", "6", "10.08", "700");
}

#[tokio::test]
async fn card_access_depends_on_the_owner_of_the_card() {
    let server = server().await;
    insert_fixtures(&server).await;
    server.execute("update cards set owner_id = 0 where id = 13; update cardgroups set hidden = 1 where id = 7").await;
    assert_card(&send(&server, "callerid=900&pin=1202").await, "13", "12", "0.00", "900");
    // An unsold card in a hidden group still takes a payment.
    assert_card(&send(&server, "callerid=700&amount=0").await, "7", "7", "1.37", "700");
    server.assert_rows("select user_id, owner_id from payments order by id", &["13|3", "7|0"]).await;
}

#[tokio::test]
async fn group_without_free_numbers_makes_no_card() {
    let server = server().await;
    server.execute("update cardgroups set number_length = 1, pin_length = 1 where id = 11; insert into cards (cardgroup_id, number, pin) select 11, i::text, i::text from generate_series(0, 9) i").await;
    assert_error(&send(&server, "callerid=900&cardgroup_id=11").await, "Failed to make transaction");
    server.assert_rows("select count(*) from cards where cardgroup_id = 11", &["10"]).await;
}

#[tokio::test]
async fn number_lengths_outside_1_to_255_make_no_card() {
    let server = server().await;
    for length in ["0", "-1", "256", "2147483647"] {
        server.execute(&format!("update cardgroups set number_length = {length} where id = 11")).await;
        assert_error(&send(&server, "callerid=900&cardgroup_id=11").await, "Failed to make transaction");
    }
    server.execute("update cardgroups set number_length = 255, pin_length = 255 where id = 11").await;
    assert_eq!(send(&server, "callerid=900&cardgroup_id=11").await.element_texts("number")[0].len(), 255);
}

#[tokio::test]
async fn last_free_number_and_pin_are_found() {
    let server = server().await;
    server.execute("update cardgroups set number_length = 3, pin_length = 3 where id = 11; insert into cards (cardgroup_id, number, pin) select 11, lpad(i::text, 3, '0'), lpad(i::text, 3, '0') from generate_series(0, 999) i where i <> 7").await;
    let reply = send(&server, "callerid=900&cardgroup_id=11").await;
    assert_eq!((reply.element_texts("number"), reply.element_texts("pin")), (vec!["007"], vec!["007"]));
}

/// Two requests use one PIN. One moves the funds to its own card and retires the PIN's card. The retired card isn't
/// sold to the other request.
#[tokio::test(flavor = "multi_thread")]
async fn concurrently_retired_card_is_not_sold() {
    let server = server_with_settings(&[("database_connections", "8")]).await;
    insert_fixtures(&server).await;
    for number in 0..60 {
        server
            .execute(&format!(
                "insert into cards (cardgroup_id, number, pin, balance, callerid) values (11, 'r{number}', 'r{number}', 1, 'r{number}'), (11, 'p{number}', 'p{number}', 4, null)"
            ))
            .await;
        let (first, second) = (server.clone(), server.clone());
        let top_up = tokio::spawn(async move { send(&first, &format!("callerid=r{number}&pin=p{number}")).await });
        let sale = tokio::spawn(async move { send(&second, &format!("callerid=s{number}&pin=p{number}")).await });
        let (top_up, sale) = (top_up.await.unwrap(), sale.await.unwrap());
        assert!(top_up.body.contains("ok") || sale.body.contains("ok"), "{} {}", top_up.body, sale.body);
    }
    server
        .assert_rows(
            "select id from cards where retired_at is not null and (sold = 1 or balance <> 0 or callerid is not null)",
            &[],
        )
        .await;
    server.assert_rows("select sum(balance) from cards where cardgroup_id = 11", &["300.000000000000000"]).await;
}

#[tokio::test]
async fn card_retired_during_the_lock_wait_is_not_found() {
    let server = server().await;
    insert_fixtures(&server).await;
    let mut transaction = server.pool.begin().await.unwrap();
    sqlx::query("update cards set balance = 0, retired_at = now() where pin = '0042'")
        .execute(&mut *transaction)
        .await
        .unwrap();
    let sender = server.clone();
    let waiting = tokio::spawn(async move { send(&sender, "callerid=900&pin=0042").await });
    server.wait_for_lock_waiter().await;
    transaction.commit().await.unwrap();
    assert_error(&waiting.await.unwrap(), "Card was not found");
}

/// Requests that wait for the lock of one caller id hold no database connection.
#[tokio::test(flavor = "multi_thread")]
async fn requests_waiting_for_one_caller_id_hold_no_connection() {
    let server = server_with_settings(&[("database_connections", "2")]).await;
    insert_fixtures(&server).await;
    let mut transaction = server.pool.begin().await.unwrap();
    sqlx::query("select pg_advisory_xact_lock(hashtextextended('callerid 900', 0))")
        .execute(&mut *transaction)
        .await
        .unwrap();
    let waiting: Vec<_> = (0..20)
        .map(|_| {
            let server = server.clone();
            tokio::spawn(async move { send(&server, "callerid=900&cardgroup_id=6&amount=1.19").await })
        })
        .collect();
    server.wait_for_lock_waiter().await;
    assert_card(&send(&server, "callerid=700&amount=0").await, "7", "7", "1.37", "700");
    transaction.rollback().await.unwrap();
    for task in waiting {
        assert!(task.await.unwrap().body.contains("ok"));
    }
    server.assert_rows("select balance from cards where callerid = '900'", &["20.000000000000000"]).await;
}
