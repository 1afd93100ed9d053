//! `card_by_cli_update`: replies and payments in the x7 dialect, currencies, taxes, and conservation of money.

use super::card_by_cli_update::{assert_card, assert_error, insert_fixtures, send};
use crate::harness::{server, server_with_settings, x7_server};

/// The sum of all balances, in the system's currency.
const MONEY: &str = "select (select sum(balance) from cards) + (select sum(balance) from users) as money";

#[tokio::test]
async fn x7_replies() {
    let server = x7_server().await;
    insert_fixtures(&server).await;
    server.execute("insert into conflines (name, value) values ('Nice_Number_Digits', '4')").await;
    let reply = send(&server, "callerid=700").await;
    reply.assert_body(
        r"
        <page>
          <response>
            <status>ok</status>
            <card>
              <id>7</id>
              <cardgroup_id>7</cardgroup_id>
              <balance>1.3660</balance>
              <balance_with_vat>1.5778</balance_with_vat>
              <callerid>700</callerid>
              <pin>7001</pin>
              <number>700001</number>
            </card>
          </response>
        </page>
    ",
    );
    // In x7 an amount of 0 adds a payment too.
    server
        .assert_rows(
            "select kind, amount from payments order by id",
            &["sale|1.016460624274298", "top_up|0.000000000000000"],
        )
        .await;
    send(&server, "callerid=555&amount=1.19").await.assert_body(
        r"
        <page>
          <response>
            <status>ok</status>
            <device_id>1</device_id>
            <user_id>2</user_id>
            <new_balance>2.0000</new_balance>
            <new_balance_with_vat>2.3800</new_balance_with_vat>
          </response>
        </page>
    ",
    );
    server.assert_rows("select first_name, last_name from payments where kind = 'refill'", &["First|Last"]).await;
}

#[tokio::test]
async fn x7_refuses_cards_with_wrong_lengths() {
    let server = x7_server().await;
    insert_fixtures(&server).await;
    let nested = |message: &str| format!("<page>\n  <error>\n    <error>{message}</error>\n  </error>\n</page>");
    server.execute("update cards set pin = '70011' where id = 7; update cards set pin = '00420' where id = 6").await;
    assert_error(&send(&server, "callerid=700").await, "Failed to make transaction");
    send(&server, "callerid=700&cardgroup_id=6").await.assert_body(&nested("Bad PIN length should be: 4"));
    send(&server, "callerid=900&pin=00420").await.assert_body(&nested("Bad PIN length should be: 4"));
    send(&server, "callerid=555&pin=00420").await.assert_body(&nested("Bad PIN length should be: 4"));
    server.execute("update cards set pin = '7001', number = '7' where id = 7").await;
    send(&server, "callerid=700&pin=1001").await.assert_body(&nested("Bad number length should be: 6"));
}

#[tokio::test]
async fn x7_adds_missing_tax_rows() {
    let server = x7_server().await;
    insert_fixtures(&server).await;
    server.execute("update users set tax_id = 888 where id = 2").await;
    assert_eq!(send(&server, "callerid=900&cardgroup_id=10&amount=1").await.element_texts("balance"), ["1.00"]);
    assert_eq!(send(&server, "callerid=555&amount=1").await.element_texts("new_balance"), ["2.00"]);
    server.assert_rows("select tax_id > 100 as own from cardgroups where id = 10 union all select tax_id > 100 from users where id = 2", &["true", "true"]).await;
}

#[tokio::test]
async fn amount_in_unknown_currency_is_refused() {
    let server = server().await;
    insert_fixtures(&server).await;
    server.execute("update cardgroups set tell_balance_in_currency = 'ABC' where id in (7, 11)").await;
    assert_error(&send(&server, "callerid=700&amount=5").await, "Failed to make transaction");
    assert_error(&send(&server, "callerid=900&cardgroup_id=11&amount=5").await, "Failed to make transaction");
    assert_card(&send(&server, "callerid=900&cardgroup_id=11").await, "101", "11", "0.00", "900");
}

#[tokio::test]
async fn user_without_currency_is_paid_in_system_currency() {
    let server = server().await;
    insert_fixtures(&server).await;
    server.execute("update users set currency_id = 77 where id = 2").await;
    send(&server, "callerid=555&amount=11.9").await;
    server.assert_rows("select amount, currency from payments", &["10.000000000000000|USD"]).await;
}

#[tokio::test]
async fn negative_tax_factor_is_refused() {
    let server = server().await;
    insert_fixtures(&server).await;
    server.execute("update taxes set tax1_value = -300 where id in (1, 2)").await;
    assert_error(&send(&server, "callerid=900&cardgroup_id=11&amount=100").await, "Failed to make transaction");
    assert_error(&send(&server, "callerid=555&amount=100").await, "Failed to make transaction");
    server.assert_rows("select count(*) from payments", &["0"]).await;
}

/// Each row of both tables only moves money. New money comes from payments alone.
#[tokio::test]
async fn money_is_conserved_in_every_table_row() {
    for dialect in ["documented", "x7"] {
        let server = server_with_settings(&[("dialect", dialect)]).await;
        insert_fixtures(&server).await;
        server.execute("update cards set callerid = '600' where id = 2").await;
        for form in [
            "callerid=600&pin=1003",
            "callerid=600&pin=7001",
            "callerid=700&cardgroup_id=6",
            "callerid=600&cardgroup_id=9",
            "callerid=555&pin=9001",
            "callerid=900&pin=0042",
            "callerid=900&cardgroup_id=11",
        ] {
            let before = server.rows(MONEY).await;
            send(&server, form).await;
            assert_eq!(server.rows(MONEY).await, before, "{dialect} {form}");
        }
    }
}

/// An amount that is no number is refused. In x7 its leading number is added, and 0 without one.
#[tokio::test]
async fn amount_that_is_not_a_number_is_refused() {
    let (server, x7) = (server().await, x7_server().await);
    for server in [&server, &x7] {
        insert_fixtures(server).await;
    }
    for amount in ["2x", "2,5", "abc", "NaN", "1__0", "0x2"] {
        for form in ["callerid=700", "callerid=555", "callerid=900&cardgroup_id=6", "callerid=700&cardgroup_id=6"] {
            assert_error(&send(&server, &format!("{form}&amount={amount}")).await, "Failed to make transaction");
        }
    }
    let row_counts = "select (select count(*) from payments) payments, (select count(*) from cards) cards";
    server.assert_rows(row_counts, &["0|13"]).await;
    // A blank amount is 0, and beside a PIN the amount is not read.
    assert_card(&send(&server, "callerid=700&amount=").await, "7", "7", "1.37", "700");
    assert_eq!(send(&server, "callerid=555&pin=0042&amount=abc").await.element_texts("status"), ["ok"]);
    for amount in ["2", "2,5"] {
        assert_eq!(send(&x7, &format!("callerid=555&amount={amount}")).await.element_texts("status"), ["ok"]);
    }
    x7.assert_rows("select count(*), count(distinct amount) from payments", &["2|1"]).await;
}
