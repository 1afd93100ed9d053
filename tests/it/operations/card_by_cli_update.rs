//! `card_by_cli_update` (`endpoints/card_by_cli_update.md`): the rows of both tables, and every error.

use crate::harness::{Reply, Server, hash, server, x7_server};

pub const UPDATE: &str = "card_by_cli_update";

/// Adds devices and their users: the admin's `user` has device 1, the reseller's `customer` has device 2.
pub async fn insert_fixtures(server: &Server) {
    server
        .execute(
            "insert into devices (id, name, user_id) values (1, '101', 2), (2, '102', 11), (3, 'provider', 5), (4, 'provider', -1), (5, 'lost', 777);
             insert into callerids (cli, device_id) values ('555', 1), ('556', 2), ('557', 3), ('558', 4), ('559', 5), ('55500', 1), ('555', 0);
             insert into providers (name, device_id) values ('provider', 3);
             update users set tax_id = 2, balance = 1, currency_id = 2, first_name = 'First', last_name = 'Last' where id = 2;
             update cards set owner_id = 3 where cardgroup_id = 12;
             update cards set callerid = '700' where id = 7;
             update cards set callerid = '1200' where id = 12",
        )
        .await;
}

/// Sends a request of the admin. The hash covers pin, amount, callerid and cardgroup_id.
pub async fn send(server: &Server, form: &str) -> Reply {
    send_as(server, "admin", "secret", form).await
}

async fn send_as(server: &Server, user: &str, key: &str, form: &str) -> Reply {
    let value = |name: &str| {
        let prefix = format!("{name}=");
        form.split('&').find_map(|pair| pair.strip_prefix(&prefix)).unwrap_or_default()
    };
    let hashed = ["pin", "amount", "callerid", "cardgroup_id"].map(value).concat();
    server.post(UPDATE, &format!("u={user}&{form}&hash={}", hash(&hashed, key))).await
}

#[track_caller]
pub fn assert_error(reply: &Reply, message: &str) {
    reply.assert_body(&format!("<page>\n  <error>{message}</error>\n</page>"));
}

#[track_caller]
pub fn assert_card(reply: &Reply, id: &str, group: &str, balance: &str, callerid: &str) {
    let (pin, number) = (reply.element_texts("pin")[0], reply.element_texts("number")[0]);
    reply.assert_body(&format!(
        "<page>\n  <status>ok</status>\n  <card>\n    <id>{id}</id>\n    <cardgroup_id>{group}</cardgroup_id>\n    <balance>{balance}</balance>\n    \
         <callerid>{callerid}</callerid>\n    <pin>{pin}</pin>\n    <number>{number}</number>\n  </card>\n</page>"
    ));
}

const PAYMENTS: &str = "select paymenttype, kind, amount, currency, round(tax, 9) as tax, user_id, owner_id, card, completed, first_name, description from payments order by id";
const ACTIONS: &str = "select user_id, action, target_type, target_id, data, data2, data3 from actions order by id";

#[tokio::test]
async fn amount_for_a_device_tops_up_its_user() {
    let server = server().await;
    insert_fixtures(&server).await;
    send(&server, "callerid=555&amount=11.9").await.assert_body(
        r"
        <page>
          <status>ok</status>
          <device_id>1</device_id>
          <user_id>2</user_id>
          <new_balance>11.00</new_balance>
          <new_balance_with_vat>13.09</new_balance_with_vat>
        </page>
    ",
    );
    // The payment is in the user's currency. No card changes, so there is no audit row.
    server.assert_rows(PAYMENTS, &["card_refill|refill|7.441000000000000|EUR|0.000000000|2|0|0|1|∅|"]).await;
    server.assert_rows(ACTIONS, &[]).await;
    server.assert_rows("select balance from users where id = 2", &["11.000000000000000"]).await;
    // Without an amount the balance stays.
    assert_eq!(send(&server, "callerid=555").await.element_texts("new_balance"), ["11.00"]);
    server.assert_rows("select count(*) from payments", &["1"]).await;
}

#[tokio::test]
async fn amount_for_a_card_tops_it_up() {
    let server = server().await;
    insert_fixtures(&server).await;
    // Card 7 of group 7: unsold, euros at 0.7441, compound taxes of 10 % and 5 %.
    assert_card(&send(&server, "callerid=700&amount=8.59436").await, "7", "7", "11.37", "700");
    server
        .assert_rows(
            PAYMENTS,
            &[
                "Card|sale|1.016460624274298|EUR|0.157551397|7|0|1|1|∅|",
                "Card|top_up|7.441004329004329|EUR|1.153355671|7|0|1|1|∅|",
            ],
        )
        .await;
    server
        .assert_rows(
            ACTIONS,
            &[
                "0|card_payment_created|Payment|1|7|1.0164606242742979181|EUR",
                "0|card_payment_created|Payment|2|7|7.441004329004329|EUR",
            ],
        )
        .await;
    // 8.59436 / 1.1 / 1.05 / 0.7441, to 15 decimals.
    server.assert_rows("select sold, active, balance from cards where id = 7", &["1|1|11.366032728502388"]).await;
    // The request may name the card's own group. A missing amount is 0 and adds no payment.
    assert_card(&send(&server, "callerid=700&cardgroup_id=7").await, "7", "7", "11.37", "700");
    server.assert_rows("select count(*) from payments", &["2"]).await;
}

#[tokio::test]
async fn card_of_another_group_is_replaced() {
    let server = server().await;
    insert_fixtures(&server).await;
    let reply = send(&server, "callerid=700&cardgroup_id=6&amount=11.9").await;
    assert_card(&reply, "101", "6", "11.37", "700");
    let (number, pin) = (reply.element_texts("number")[0], reply.element_texts("pin")[0]);
    assert!(
        number.len() == 10 && pin.len() == 4 && (number.to_owned() + pin).bytes().all(|byte| byte.is_ascii_digit())
    );
    server
        .assert_rows(
            "select id, balance, sold, callerid, owner_id, retired_at is not null as retired from cards where id in (7, 101) order by id",
            &["7|0.000000000000000|0|∅|0|true", "101|11.366026910730141|1|700|0|false"],
        )
        .await;
    server
        .assert_rows(
            PAYMENTS,
            &[
                "Card|sale|1.366026910730141|USD|0.259545113|101|0|1|1|∅|",
                "Card|top_up|10.000000000000000|USD|1.900000000|101|0|1|1|∅|",
            ],
        )
        .await;
    server
        .assert_rows(
            ACTIONS,
            &[
                "0|Added to cards balance|card|7|-1.37|∅|∅",
                "0|card_payment_created|Payment|1|101|1.366026910730141|USD",
                "0|card_payment_created|Payment|2|101|10.0|USD",
            ],
        )
        .await;
    // The replaced card can't be sold.
    server.post_signed("card_from_group_sell", "u=admin&id=7", "7").await.assert_page_error("Free cards was not found");
}

#[tokio::test]
async fn unknown_caller_id_gets_a_new_card() {
    let server = server().await;
    insert_fixtures(&server).await;
    let reply = send(&server, "callerid=900&cardgroup_id=6&amount=11.9").await;
    assert_card(&reply, "101", "6", "10.00", "900");
    server
        .assert_rows(
            "select language, user_id, name, batch_number, first_use, active from cards where id = 101",
            &["en|-1|||∅|1"],
        )
        .await;
    server
        .assert_rows(
            "select kind, amount from payments order by id",
            &["sale|0.000000000000000", "top_up|10.000000000000000"],
        )
        .await;
    // A second request finds the new card.
    assert_card(&send(&server, "callerid=900&cardgroup_id=6&amount=11.9").await, "101", "6", "20.00", "900");
}

#[tokio::test]
async fn pin_for_a_device_pays_its_user() {
    let server = server().await;
    insert_fixtures(&server).await;
    let reply = send(&server, "callerid=555&pin=0042&amount=7").await;
    assert_eq!(
        (reply.element_texts("new_balance"), reply.element_texts("new_balance_with_vat")),
        (vec!["11.08"], vec!["13.19"])
    );
    server
        .assert_rows(
            "select balance, sold, retired_at is not null as retired from cards where id = 6",
            &["0.000000000000000|0|true"],
        )
        .await;
    // The card's funds move to the user: a transfer, no refill.
    server.assert_rows(PAYMENTS, &["card_refill|transfer|7.503529411764722|EUR|0.000000000|2|0|0|1|∅|"]).await;
    server.assert_rows("select balance_change, transferred from payments", &["∅|10.084033613445400"]).await;
    server.assert_rows(ACTIONS, &["0|Added to cards balance|card|6|-10.08|∅|∅"]).await;
    assert_error(&send(&server, "callerid=555&pin=0042").await, "Card was not found");
}

#[tokio::test]
async fn pin_of_the_same_group_tops_up_the_card() {
    let server = server().await;
    insert_fixtures(&server).await;
    server.execute("update cards set callerid = '600' where id = 6").await;
    assert_card(&send(&server, "callerid=600&pin=1001").await, "6", "6", "20.17", "600");
    server
        .assert_rows(
            "select id, balance, sold, retired_at is not null as retired from cards where id in (2, 6) order by id",
            &["2|0.000000000000000|0|true", "6|20.168067226890800|1|false"],
        )
        .await;
    server
        .assert_rows(
            ACTIONS,
            &[
                "0|Added to cards balance|card|2|-10.08|∅|∅",
                "0|card_payment_created|Payment|1|6|10.0840336134454|USD",
                "0|Added to cards balance|card|6|10.08|∅|∅",
            ],
        )
        .await;
}

#[tokio::test]
async fn pin_of_another_group_replaces_the_card() {
    let server = server().await;
    insert_fixtures(&server).await;
    assert_card(&send(&server, "callerid=700&pin=0042").await, "6", "6", "11.45", "700");
    server
        .assert_rows(
            "select id, balance, sold, callerid, retired_at is not null as retired from cards where id in (6, 7) order by id",
            &["6|11.450060524175541|1|700|false", "7|0.000000000000000|0|∅|true"],
        )
        .await;
    server
        .assert_rows(
            ACTIONS,
            &[
                "0|card_payment_created|Payment|1|6|10.0840336134454|USD",
                "0|Added to cards balance|card|7|-1.37|∅|∅",
                "0|Added to cards balance|card|6|1.37|∅|∅",
            ],
        )
        .await;
}

#[tokio::test]
async fn pin_for_unknown_caller_id_sells_its_card() {
    let server = server().await;
    insert_fixtures(&server).await;
    server.execute("update cards set first_use = '2020-01-01' where id = 6").await;
    let reply = server.post_signed(UPDATE, "u=admin&callerid=900&pin=0042+", "0042 900").await;
    assert_card(&reply, "6", "6", "10.08", "900");
    server
        .assert_rows(
            "select sold, active, callerid, first_use from cards where id = 6",
            &["1|1|900|2020-01-01T00:00:00"],
        )
        .await;
    server.assert_rows("select kind, amount, currency from payments", &["sale|10.084033613445400|USD"]).await;
    assert_error(&send(&server, "callerid=901&pin=0042").await, "PIN number already sold");
}

#[tokio::test]
async fn every_table_row_for_accountant_and_reseller() {
    let server = server().await;
    insert_fixtures(&server).await;
    server.execute("update users set acc_group_id = 1 where id = 6; update users set balance = 3 where id = 11").await;
    let accountant = async |form: &str| send_as(&server, "accountant", "secret", form).await;
    let reseller = async |form: &str| send_as(&server, "reseller", "reskey", form).await;
    assert_eq!(accountant("callerid=555&amount=1.19").await.element_texts("new_balance"), ["2.00"]);
    assert_card(&accountant("callerid=700&amount=0").await, "7", "7", "1.37", "700");
    assert_eq!(accountant("callerid=700&cardgroup_id=11&amount=1").await.element_texts("balance"), ["2.37"]);
    assert_eq!(accountant("callerid=900&cardgroup_id=11&amount=1").await.element_texts("balance"), ["1.00"]);
    assert_eq!(accountant("callerid=555&pin=0042").await.element_texts("new_balance"), ["12.08"]);
    assert_eq!(accountant("callerid=900&pin=1001").await.element_texts("balance"), ["11.08"]);
    // Caller id 900 has the card with PIN 1001 now. PIN 1003 of the same group tops it up. PIN 1002 sells its card to
    // caller id 903.
    assert_card(&accountant("callerid=900&pin=1003").await, "2", "6", "21.17", "900");
    assert_card(&accountant("callerid=903&pin=1002").await, "3", "6", "10.08", "903");

    // The customer has no taxes. The reseller's group has 26 % and counts in euros.
    server
        .execute(
            "insert into cardgroups (id, name, owner_id, tax_id, tell_balance_in_currency, number_length, pin_length) values (14, 'dollars', 3, 1, 'USD', 6, 4);
             insert into cards (cardgroup_id, owner_id, number, pin, balance) select 14, 3, i::text, i::text, 2 from generate_series(140001, 140004) i",
        )
        .await;
    assert_eq!(reseller("callerid=556&amount=2").await.element_texts("new_balance"), ["5.00"]);
    assert_card(&reseller("callerid=1200&amount=0.937566").await, "12", "12", "6.00", "1200");
    assert_eq!(reseller("callerid=1200&cardgroup_id=14&amount=1").await.element_texts("balance"), ["7.00"]);
    assert_eq!(reseller("callerid=901&cardgroup_id=12&amount=0.937566").await.element_texts("balance"), ["1.00"]);
    assert_eq!(reseller("callerid=556&pin=140001").await.element_texts("new_balance"), ["7.00"]);
    assert_eq!(reseller("callerid=1200&pin=140002").await.element_texts("balance"), ["9.00"]);
    assert_eq!(reseller("callerid=901&pin=140003").await.element_texts("balance"), ["3.00"]);
    assert_card(&reseller("callerid=902&pin=1202").await, "13", "12", "0.00", "902");
    server.assert_rows("select distinct p.owner_id from payments p join cards c on c.id = p.user_id where p.card = 1 and c.owner_id = 3", &["3"]).await;
    server.assert_rows("select distinct owner_id from payments where user_id in (11, 12, 13)", &["3"]).await;
}

#[tokio::test]
async fn errors_in_documented_order() {
    let (server, x7) = (server().await, x7_server().await);
    for server in [&server, &x7] {
        insert_fixtures(server).await;
        server.execute("update cards set balance = 0 where id = 3; insert into cards (cardgroup_id, number, pin, balance, callerid) values (7, '700002', '7002', 0, '702')").await;
    }
    for (form, documented, x7_message) in [
        ("callerid=&pin=9999", "Callerid must be specified", None),
        ("pin=9999", "Callerid must be specified", None),
        (
            "callerid=557&pin=9999",
            "Callerid belongs to provider",
            Some("You do not have permission to add to user's balance"),
        ),
        (
            "callerid=558&amount=-1",
            "Callerid belongs to provider",
            Some("You do not have permission to add to user's balance"),
        ),
        (
            "callerid=556&pin=9999",
            "Device allready have such callerid, but you do not have permission to change user's balance",
            Some("You do not have permission to add to user's balance"),
        ),
        (
            "callerid=559",
            "Device allready have such callerid, but you do not have permission to change user's balance",
            Some("You do not have permission to add to user's balance"),
        ),
        ("callerid=1200&pin=9999", "You do not have permission to access card", None),
        ("callerid=700&pin=9999&cardgroup_id=99", "Card was not found", Some("PIN number not found")),
        ("callerid=700&pin=7001", "Card was not found", Some("PIN number not found")),
        ("callerid=700&pin=1202", "Card was not found", Some("PIN number not found")),
        ("callerid=900&pin=8001", "Card was not found", Some("PIN number not found")),
        ("callerid=900&pin=0999", "Card was not found", Some("PIN number not found")),
        ("callerid=555&pin=1002&cardgroup_id=99", "PIN number balance is zero", None),
        ("callerid=702&pin=0042&cardgroup_id=99", "PIN number balance is zero", None),
        (
            "callerid=700&cardgroup_id=99&amount=-1",
            "Supplied Cardgroup_id is invalid",
            Some("You do not have permission to access cardgroup"),
        ),
        ("callerid=900&cardgroup_id=12&amount=-1", "Supplied Cardgroup_id is invalid", None),
        ("callerid=900&cardgroup_id=8", "Supplied Cardgroup_id is invalid", None),
        ("callerid=900&amount=-1", "Card was not found", Some("Supplied Cardgroup_id is invalid")),
        ("callerid=700&amount=-1", "Failed to make transaction", None),
        ("callerid=700&cardgroup_id=6&amount=-0.5", "Failed to make transaction", None),
        ("callerid=555&amount=-1", "Failed to make transaction", None),
        ("callerid=900&cardgroup_id=6&amount=1e16", "Failed to make transaction", None),
    ] {
        for (server, message) in [(&server, documented), (&x7, x7_message.unwrap_or(documented))] {
            assert_error(&send(server, form).await, message);
        }
    }
    assert_error(&send(&server, "callerid=900&pin=1000").await, "PIN number already sold");
    send(&x7, "callerid=900&pin=1000")
        .await
        .assert_body("<page>\n  <error>\n    <error>Cannot sell already sold card</error>\n  </error>\n</page>");
    let row_counts = "select (select count(*) from payments) p, (select count(*) from actions) a, (select count(*) from cards) c, (select count(*) from taxes) t";
    server.assert_rows(row_counts, &["0|0|14|4"]).await;
    x7.assert_rows(row_counts, &["0|0|14|4"]).await;
}
