//! `card_from_group_sell`: currencies, taxes, and order rows.

use super::card_from_group_sell::SELL;
use crate::harness::{hash, server, x7_server};

#[tokio::test]
async fn payment_in_another_currency() {
    let server = server().await;
    server.post_signed(SELL, "u=admin&id=7&curr=eur+", "7").await.assert_body(
        r"
        <page>
          <cards>
            <card>
              <pin>7001</pin>
              <number>700001</number>
              <balance_without_vat>1.0164606242742979181</balance_without_vat>
              <currency>EUR</currency>
            </card>
          </cards>
        </page>
    ",
    );
    // Compound taxes of 10 % and 5 %: 15.5 %.
    server
        .assert_rows("select amount, currency, tax from payments", &["1.016460624274298|EUR|0.157551396762516"])
        .await;
    server
        .assert_rows("select data2, data3 from actions where data3 is not null", &["1.0164606242742979181|EUR"])
        .await;
}

/// A quotient of currency rates is printed and stored with fifteen decimals.
#[tokio::test]
async fn divided_amounts_are_rounded_to_fifteen_decimals() {
    let server = server().await;
    server.execute("update currencies set exchange_rate = 3 where id = 1; update currencies set exchange_rate = 2 where id = 2; update cards set balance = 10 where id in (2, 6)").await;
    assert_eq!(
        server.post_signed(SELL, "u=admin&id=6&curr=EUR", "6").await.element_texts("balance_without_vat"),
        ["6.666666666666667"]
    );
    server.assert_rows("select data2 from actions where data3 = 'EUR'", &["6.666666666666667"]).await;
    assert_eq!(server.post_signed(SELL, "u=admin&id=6", "6").await.element_texts("balance_without_vat"), ["10.0"]);
}

#[tokio::test]
async fn negative_and_missing_balances_are_sold_unchanged() {
    let server = server().await;
    server.execute("update cards set balance = -3 where id = 12").await;
    let reply = server.post(SELL, &format!("u=reseller&id=12&quantity=2&hash={}", hash("122", "reskey"))).await;
    assert_eq!(reply.element_texts("balance_without_vat"), ["-3.0", "0.0"]);
    server
        .assert_rows(
            "select user_id, amount, tax, owner_id from payments order by id",
            &["12|-3.000000000000000|-0.780000000000000|3", "13|0.000000000000000|0.000000000000000|3"],
        )
        .await;
    server
        .assert_rows(
            "select user_id, data2 from actions where action = 'card_payment_created' order by id",
            &["3|-3.0", "3|0.0"],
        )
        .await;
}

#[tokio::test]
async fn x7_uses_the_currencies_of_caller_and_group() {
    let server = x7_server().await;
    server.execute("update users set currency_id = 4 where id = 0").await;
    server.post_signed(SELL, "u=admin&id=7&curr=XXX&email=a%40b.c", "a@b.c7").await.assert_body(
        r"
        <page>
          <cards>
            <card>
              <pin>7001</pin>
              <number>700001</number>
              <balance_without_vat>3.5097329417389512713</balance_without_vat>
              <currency>USD</currency>
            </card>
          </cards>
        </page>
    ",
    );
    server.assert_rows("select amount, currency from payments", &["2.611592281947954|EUR"]).await;
    server.assert_rows("select amount, currency from ccorders", &["3.509732941738951|USD"]).await;
    server.assert_rows("select price from cclineitems", &["3.509732941738951"]).await;
    // An unknown currency has rate 0. A caller without a currency has rate 1.
    server
        .execute(
            "update cardgroups set tell_balance_in_currency = 'ABC'; update users set currency_id = 77 where id = 0",
        )
        .await;
    assert_eq!(
        server.post_signed(SELL, "u=admin&id=6", "6").await.element_texts("balance_without_vat"),
        ["10.0840336134454"]
    );
    server.assert_rows("select amount, currency from payments where user_id = 6", &["0.000000000000000|ABC"]).await;
}

#[tokio::test]
async fn non_compound_taxes_add_up() {
    let server = server().await;
    server.post_signed(SELL, "u=admin&id=9&number=900002", "9").await;
    server.assert_rows("select amount, tax from payments", &["3.000000000000000|0.780000000000000"]).await;
}

#[tokio::test]
async fn group_without_tax_row_uses_the_taxes_of_its_owner() {
    let server = server().await;
    server.execute("insert into cards (cardgroup_id, number, pin, balance) values (10, '100002', '1102', 10)").await;
    server.execute("update users set tax_id = 2 where id = 0").await;
    server.post_signed(SELL, "u=admin&id=10", "10").await;
    // The owner has no tax row either: the defaults from the settings are used.
    server.execute("update users set tax_id = 888 where id = 0").await;
    server.post_signed(SELL, "u=admin&id=10", "10").await;
    server.assert_rows("select tax from payments order by id", &["1.330000000000000", "0.750000000000000"]).await;
    server.assert_rows("select count(*) from taxes", &["4"]).await;
}

#[tokio::test]
async fn x7_adds_missing_tax_rows() {
    let server = x7_server().await;
    server.execute("insert into cards (cardgroup_id, number, pin, balance) values (10, '100002', '1102', 10)").await;
    server.execute("update users set tax_id = 888 where id = 0").await;
    assert_eq!(server.post_signed(SELL, "u=admin&id=10", "10").await.element_texts("pin"), ["1101"]);
    assert_eq!(server.post_signed(SELL, "u=admin&id=10", "10").await.element_texts("pin"), ["1102"]);
    server.assert_rows("select tax from payments order by id", &["0.525000000000000", "0.750000000000000"]).await;
    server
        .assert_rows(
            "select t.id = u.tax_id as owners, t.id = g.tax_id as groups, tax1_enabled, tax1_name, tax2_name, total_tax_name, tax1_value, compound_tax
             from taxes t, users u, cardgroups g where u.id = 0 and g.id = 10 and t.id > 100 order by t.id",
            &["true|false|1|Tax||Tax|7.500000000000000|1", "false|true|1|Tax||Tax|7.500000000000000|1"],
        )
        .await;
}

#[tokio::test]
async fn x7_copies_admin_taxes_to_a_reseller_without_taxes() {
    let server = x7_server().await;
    server.execute("update users set tax_id = 777 where id = 3; update users set tax_id = 2, currency_id = 1 where id = 0; update cardgroups set tax_id = 888 where id = 12").await;
    server.post(SELL, &format!("u=reseller&id=12&hash={}", hash("12", "reskey"))).await;
    server
        .assert_rows(
            "select t.tax1_value from users u join taxes t on t.id = u.tax_id where u.id = 3",
            &["19.000000000000000"],
        )
        .await;
    server
        .assert_rows(
            "select t.tax1_value from cardgroups g join taxes t on t.id = g.tax_id where g.id = 12",
            &["19.000000000000000"],
        )
        .await;
}

#[tokio::test]
async fn email_adds_order_rows() {
    let server = server().await;
    let reply = server.post_signed(SELL, "u=admin&id=7&email=a%40b.c&curr=EUR", "a@b.c7").await;
    assert_eq!(reply.element_texts("number"), ["700001"]);
    server
        .assert_rows(
            "select amount, currency, ordertype, email, completed, tax_percent, shipped_at, date_added is not null as dated from ccorders",
            &["1.366026910730141|USD|unspecified|a@b.c|1|0.000000000000000|∅|true"],
        )
        .await;
    server
        .assert_rows(
            "select l.cardgroup_id, quantity, ccorder_id = o.id as of_order, card_id, price from cclineitems l, ccorders o",
            &["7|1|true|7|1.366026910730141"],
        )
        .await;
}

#[tokio::test]
async fn empty_email_adds_an_order_in_x7_only_and_a_long_one_is_cut() {
    let (server, x7) = (server().await, x7_server().await);
    for (server, orders) in [(&server, "0"), (&x7, "1")] {
        assert_eq!(server.post_signed(SELL, "u=admin&id=6&email=", "6").await.element_texts("pin"), ["0042"]);
        server.assert_rows("select count(*) from ccorders", &[orders]).await;
        let long = "x".repeat(300);
        assert_eq!(
            server
                .post_signed(SELL, &format!("u=admin&id=6&email={long}"), &format!("{long}6"))
                .await
                .element_texts("pin"),
            ["1001"]
        );
        server.assert_rows("select max(length(email)) from ccorders", &["255"]).await;
    }
}
