//! The rows of the change log, and the columns of payments that the ledger adds (`ledger.md`).

use super::card_by_cli_update::{insert_fixtures, send};
use crate::harness::{Server, hash, server, server_with_settings, with_timeout, x7_server};

/// The latest row of the change log, without times.
async fn last_change(server: &Server) -> String {
    let times = "- 'created_at' - 'last_update_date'";
    server
        .rows(&format!(
            "select concat_ws(' ', who, user_id, what, target_id, target_name, cardgroup_id, number_from, number_till,
                 before {times}, '->', after {times})
             from change_log order by id desc limit 1"
        ))
        .await
        .concat()
}

#[tokio::test]
async fn card_changes_are_logged_without_pin() {
    let server = server().await;
    let form = "u=accountant&card_id=1&name=Anna&pin=6789&number=1111111009";
    server
        .execute(
            "insert into acc_rights (id, name, right_type) values (5, 'callingcard_pin', 'accountant');
        insert into acc_group_rights (acc_group_id, acc_right_id, value) values (1, 5, 2)",
        )
        .await;
    server.post_signed("calling_card_update", form, "1").await;
    assert_eq!(
        last_change(&server).await,
        r#"accountant 6 card 1 1111111009 {"pin": "(hidden)", "name": "", "number": "1111111003"} -> {"pin": "(hidden)", "name": "Anna", "number": "1111111009"}"#
    );
    // The same again changes nothing, and neither does a refused request.
    server.post_signed("calling_card_update", form, "1").await;
    server.post_signed("calling_card_update", "u=admin&card_id=1&name=Bea&number=1111111001", "1").await;
    server.assert_rows("select count(*) from change_log", &["1"]).await;
}

/// A deleted card loses its caller id to the card that gets it: by `calling_card_update`, with the PIN of a card, and
/// for a new card.
#[tokio::test]
async fn caller_ids_of_deleted_cards_are_logged() {
    const CHANGES: &str = "select who, what, target_id, before, after from change_log order by id";
    const CLEARED: &str = r#"admin|card|5|{"callerid": "999"}|{"callerid": null}"#;
    for operation in ["update", "pin", "new"] {
        let server = server().await;
        insert_fixtures(&server).await;
        server.execute("update cards set callerid = '999' where id = 5").await;
        let mut changes = vec![CLEARED];
        match operation {
            "update" => {
                server.post_signed("calling_card_update", "u=admin&card_id=1&callerid=999", "1").await;
                changes.push(r#"admin|card|1|{"callerid": null}|{"callerid": "999"}"#);
            }
            "pin" => assert_eq!(send(&server, "callerid=999&pin=1001").await.element_texts("id"), ["2"]),
            _ => assert_eq!(send(&server, "callerid=999&amount=1&cardgroup_id=11").await.element_texts("id"), ["101"]),
        }
        server.assert_rows(CHANGES, &changes).await;
    }
}

/// The user of a request can be deleted before the request writes its change.
#[tokio::test]
async fn change_by_a_deleted_user_names_the_id() {
    let server = server_with_settings(&[("cache", "on")]).await;
    let mut transaction = server.pool.begin().await.unwrap();
    sqlx::query("select from cards where id = 1 for update").execute(&mut *transaction).await.unwrap();
    let delete_user = async {
        with_timeout("the update to wait for the card", server.wait_for_lock_waiter()).await;
        server.execute("delete from users where id = 6").await;
        transaction.rollback().await.unwrap();
    };
    let update = server.post_signed("calling_card_update", "u=accountant&card_id=1&name=Anna", "1");
    let (reply, ()) = tokio::join!(update, delete_user);
    assert_eq!(reply.element_texts("success").len(), 1, "{}", reply.body);
    server.assert_rows("select who, user_id from change_log", &["user 6|6"]).await;
}

#[tokio::test]
async fn request_id_is_logged() {
    let server = server().await;
    let request = axum::http::Request::post("/billing/api/tariff_wholesale_update")
        .header("content-type", "application/x-www-form-urlencoded")
        .header("x-request-id", "request-42")
        .body(format!("u=admin&name=new&hash={}", hash("new", "secret")).into());
    let reply = server.send(request).await;
    assert_eq!(reply.element_texts("status"), ["ok"], "{}", reply.body);
    server.assert_rows("select request_id, operator from change_log", &["request-42|∅"]).await;
}

#[tokio::test]
async fn created_cards_are_logged_as_a_range() {
    let server = server().await;
    server.execute("update cardgroups set pin_length = 8 where id = 6").await;
    let form = "u=admin&card_group_id=6&cards_from=1111111002&cards_till=1111111009&batch_number=B7";
    let reply = server.post_signed("calling_cards_create", form, "611111110021111111009").await;
    assert_eq!(reply.element_texts("status").concat().trim(), "Cards created: 6/8", "{}", reply.body);
    assert_eq!(
        last_change(&server).await,
        "admin 0 card 1111111002 - 1111111009 6 1111111002 1111111009 \
         -> {\"distributor\": -1, \"batch_number\": \"B7\", \"cards_created\": 6}"
    );
    // Nothing is created, nothing is logged.
    server
        .post_signed("calling_cards_create", form, "611111110021111111009")
        .await
        .assert_page_error("Cards already exist");
    server.assert_rows("select count(*) from change_log", &["1"]).await;
}

#[tokio::test]
async fn card_group_changes_are_logged_with_taxes() {
    let server = server().await;
    server.execute("insert into tariffs (name) values ('one'); insert into lcrs (name) values ('one')").await;
    let reply = server.post_signed("cc_group_create", "u=admin&name=new&price_with_vat=10", "new").await;
    assert!(reply.body.contains("successfully created"), "{}", reply.body);
    let change = last_change(&server).await;
    assert!(change.starts_with("admin 0 card_group 101 new -> {"), "{change}");
    assert!(change.contains(r#""price": 10.000000000000000"#) && change.contains(r#""tax1_value": 0"#), "{change}");
    let form = "u=admin&cc_group_id=6&description=long&tax1_value=20";
    let reply = server.post_signed("cc_group_update", form, "6").await;
    assert!(reply.body.contains("successfully updated"), "{}", reply.body);
    assert_eq!(
        last_change(&server).await,
        "admin 0 card_group 6 ten dollars {\"tax1_value\": 19.000000000000000, \"description\": \"\"} -> \
         {\"tax1_value\": 20.000000000000000, \"description\": \"long\"}"
    );
}

#[tokio::test]
async fn tariff_changes_are_logged() {
    let server = server().await;
    server.post_signed("tariff_wholesale_update", "u=admin&name=one", "one").await;
    let change = last_change(&server).await;
    assert!(change.starts_with("admin 0 tariff 1 one -> {\"id\": 1, \"name\": \"one\""), "{change}");
    server.post_signed("tariff_wholesale_update", "u=admin&id=1&name=two", "1two").await;
    assert_eq!(last_change(&server).await, "admin 0 tariff 1 two {\"name\": \"one\"} -> {\"name\": \"two\"}");
}

/// Sales, top-ups and transfers have payments instead.
#[tokio::test]
async fn payments_have_caller_and_balance_change() {
    const PAYMENTS: &str =
        "select kind, user_id, caller_id, balance_change from payments where kind <> 'sale' order by id";
    let server = server().await;
    insert_fixtures(&server).await;
    server.execute("insert into conflines (name, value) values ('API_Allow_payments_ower_API', '1')").await;
    send(&server, "callerid=555&amount=11.9").await;
    send(&server, "callerid=3701111&amount=11.9").await;
    send(&server, "callerid=999&amount=5&cardgroup_id=7").await;
    send(&server, "callerid=555&pin=1001").await;
    send(&server, "callerid=3701111&pin=1002").await;
    let hash = hash("11111110001.19EUR", "secret");
    let form = format!("u=admin&number=1111111000&amount=1.19&currency=EUR&hash={hash}");
    assert!(!server.post("card_payment_add", &form).await.body.contains("<error>"));
    server
        .assert_rows(
            PAYMENTS,
            &[
                "refill|2|0|10.000000000000000",
                "top_up|4|0|10.000000000000000",
                "top_up|101|0|5.817772247015628",
                "transfer|2|0|∅",
                "top_up|4|0|1.343905389060610",
            ],
        )
        .await;
    server.assert_rows("select count(*) from change_log", &["0"]).await;
    // In the dialect x7, the new card of a caller id has the amount as its face value.
    let server = x7_server().await;
    insert_fixtures(&server).await;
    send(&server, "callerid=999&amount=5&cardgroup_id=11").await;
    send(&server, "callerid=999&amount=5").await;
    server.assert_rows(PAYMENTS, &["top_up|101|0|5.000000000000000"]).await;
}
