//! `card_payment_add` (`endpoints/card_payment_add.md`).

use crate::harness::{Reply, Server, hash, server, x7_server};

const PAY: &str = "card_payment_add";
/// Counts the rows that a payment can add, and sums all card balances.
const ROW_COUNTS: &str =
    "select (select count(*) from payments) p, (select count(*) from actions where action <> 'error') a, (select sum(balance) from cards) b,
    (select count(*) from taxes) t";
const UNCHANGED: &[&str] = &["0|0|82.870228591402541|4"];

async fn insert_fixtures(server: &Server) {
    server
        .execute(
            "insert into conflines (name, value) values ('API_Allow_payments_ower_API', '1');
             update cards set sold = 1, active = 1 where id in (7, 11, 12);
             update cards set owner_id = 3 where id in (12, 13)",
        )
        .await;
}

/// Sends a request. The hash covers description, number, amount and currency, as far as they are sent.
async fn send(server: &Server, user: &str, sent: &[(&str, &str)]) -> Reply {
    let key = if user == "reseller" { "reskey" } else { "secret" };
    let hashed: String = ["description", "number", "amount", "currency"]
        .iter()
        .filter_map(|name| sent.iter().find(|(sent_name, _)| sent_name == name))
        .map(|(_, value)| *value)
        .collect();
    let encoded = |value| percent_encoding::utf8_percent_encode(value, percent_encoding::NON_ALPHANUMERIC).to_string();
    let form: String = sent.iter().map(|(name, value)| format!("&{name}={}", encoded(value))).collect();
    server.post(PAY, &format!("u={user}{form}&hash={}", hash(&hashed, key))).await
}

#[tokio::test]
async fn tops_up_a_sold_card() {
    let server = server().await;
    insert_fixtures(&server).await;
    // Group 7 has compound taxes of 10 % and 5 %: 11.55 dollars are ten without taxes.
    send(&server, "admin", &[("number", "700001"), ("amount", "11.55"), ("description", "at the <counter>")])
        .await
        .assert_body(
            r"
        <page>
          <status>
            <success>Calling Card balance successfully updated</success>
          </status>
          <calling_card_group>
            <name>euro group</name>
          </calling_card_group>
          <calling_card>
            <number>700001</number>
          </calling_card>
          <add_payment>
            <currency>USD</currency>
            <amount_with_tax>11.55</amount_with_tax>
            <details>
              <current_balance>1.366026910730141</current_balance>
              <amount_with_tax>11.55</amount_with_tax>
              <amount_without_tax>10.0</amount_without_tax>
              <new_balance>11.366026910730141</new_balance>
              <description>at the &lt;counter&gt;</description>
            </details>
          </add_payment>
        </page>
    ",
        );
    server.assert_rows("select balance, sold, active from cards where id = 7", &["11.366026910730141|1|1"]).await;
    server
        .assert_rows(
            "select paymenttype, kind, amount, currency, trim_scale(tax) as tax, user_id, owner_id, card, completed, description, email, fee, gross, first_name,
                 provider_id, date_added = shipped_at as at_once, date_added between now() - interval '1 minute' and now() as now from payments",
            &["Card|top_up|11.550000000000000|USD|1.79025|7|0|1|1|at the <counter>|∅|0.000000000000000|0.000000000000000|∅|-1|true|true"],
        )
        .await;
    server
        .assert_rows(
            "select user_id, action, target_type, target_id, data, data2, data3, data4 from actions",
            &["0|card_payment_created|Payment|1|7|11.55|USD|∅"],
        )
        .await;
}

#[tokio::test]
async fn payment_in_another_currency() {
    let server = server().await;
    insert_fixtures(&server).await;
    // The currency is accepted in any letter case. 7.441 euros are ten dollars. The reseller's taxes are 21 % and 5 %,
    // not compound.
    send(&server, "reseller", &[("number", "120001"), ("amount", "7.441"), ("currency", "eur")]).await.assert_body(
        r"
        <page>
          <status>
            <success>Calling Card balance successfully updated</success>
          </status>
          <calling_card_group>
            <name>the reseller's</name>
          </calling_card_group>
          <calling_card>
            <number>120001</number>
          </calling_card>
          <add_payment>
            <currency>EUR</currency>
            <amount_with_tax>7.441</amount_with_tax>
            <details>
              <current_balance>5.0</current_balance>
              <converted_to>USD</converted_to>
              <exchange_rate>0.7441</exchange_rate>
              <amount_with_tax>10.0</amount_with_tax>
              <amount_without_tax>7.936507936507937</amount_without_tax>
              <new_balance>12.936507936507937</new_balance>
              <description></description>
            </details>
          </add_payment>
        </page>
    ",
    );
    server
        .assert_rows(
            "select trim_scale(amount) as amount, currency, trim_scale(tax) as tax, user_id, owner_id, description from payments",
            &["7.441|EUR|1.93466|12|3|"],
        )
        .await;
    server.assert_rows("select balance from cards where id = 12", &["12.936507936507937"]).await;
    // An unknown currency counts as the system's.
    let reply = send(&server, "admin", &[("number", "100001"), ("amount", "1"), ("currency", "XXX")]).await;
    assert_eq!(
        (reply.element_texts("currency"), reply.element_texts("new_balance"), reply.element_texts("converted_to")),
        (vec!["USD"], vec!["8.0"], vec![])
    );
    // The system's currency must be active only if the request names it.
    server.execute("update currencies set active = 0 where id = 1").await;
    assert_eq!(
        send(&server, "admin", &[("number", "100001"), ("amount", "1")]).await.element_texts("new_balance"),
        ["9.0"]
    );
    let reply = send(&server, "admin", &[("number", "100001"), ("amount", "1"), ("currency", "USD")]).await;
    reply.assert_page_error("Currency disabled");
}

#[tokio::test]
async fn errors_in_documented_order() {
    let (server, x7) = (server().await, x7_server().await);
    for server in [&server, &x7] {
        server.post(PAY, "u=user&amount=1").await.assert_status_error("Incorrect hash");
        for user in ["unknown", "admin", "user"] {
            send(server, user, &[]).await.assert_page_error("Feature Disabled");
        }
        insert_fixtures(server).await;
        for user in ["unknown", "", "user", "partner", "accountant", "accountant_zero"] {
            send(server, user, &[]).await.assert_page_error("Access Denied");
        }
        send(server, "reseller_none", &[]).await.assert_page_error("You are not authorized to use Calling Cards");
        send(server, "admin", &[]).await.assert_page_error("Calling Card was not found");
        // Missing, unknown, unsold, another owner's, hidden.
        server.execute("update cards set sold = 1 where id = 5").await;
        for (user, number) in [
            ("admin", ""),
            ("admin", "99"),
            ("admin", "1111111001"),
            ("admin", "120001"),
            ("reseller", "700001"),
            ("reseller_read", "120001"),
            ("admin", "1111110999"),
        ] {
            let reply = send(server, user, &[("number", number), ("amount", "x"), ("currency", "JPY")]).await;
            reply.assert_page_error("Calling Card was not found");
        }
        let reply = send(server, "admin", &[("number", "700001"), ("amount", "x"), ("currency", "JPY")]).await;
        reply.assert_page_error("Currency disabled");
    }
    for amount in ["", "x", "0", "-1", "1,5", "5 EUR", "0x10", "1000000000000000", "1e99", "٣", "1e-16"] {
        let reply = send(&server, "admin", &[("number", "700001"), ("amount", amount)]).await;
        reply.assert_page_error("Amount is incorrect");
    }
    send(&server, "admin", &[("number", "700001")]).await.assert_page_error("Amount is incorrect");
    let long = "x".repeat(256);
    let reply = send(&server, "admin", &[("number", "700001"), ("amount", "1"), ("description", &long)]).await;
    reply.assert_page_error("Description is too long");
    // Currency rates of 0 and less, and taxes of -100 %.
    for rate in ["0", "-2"] {
        for server in [&server, &x7] {
            server.execute(&format!("update currencies set exchange_rate = {rate} where id = 2")).await;
            let reply = send(server, "admin", &[("number", "700001"), ("amount", "1"), ("currency", "EUR")]).await;
            reply.assert_page_error("Failed to make transaction");
        }
        // An X7 server shows the balance in the reseller's currency (euros) and can't convert it at such a rate.
        send(&x7, "reseller", &[("number", "120001"), ("amount", "1")])
            .await
            .assert_page_error("Failed to make transaction");
    }
    server.execute("update taxes set tax1_value = -100 where id = 3").await;
    let reply = send(&server, "admin", &[("number", "700001"), ("amount", "1")]).await;
    reply.assert_page_error("Failed to make transaction");
    server.assert_rows(ROW_COUNTS, UNCHANGED).await;
    x7.assert_rows(ROW_COUNTS, UNCHANGED).await;
}

/// An X7 server accepts any amount, and shows balances in the caller's currency with the amount in the system's
/// currency added.
#[tokio::test]
async fn x7_amounts_and_currencies() {
    let server = x7_server().await;
    insert_fixtures(&server).await;
    for (amount, shown, balance) in [
        ("-5", "-5.0", "2.000000000000000"),
        ("1_0x", "10.0", "12.000000000000000"),
        ("abc", "0.0", "12.000000000000000"),
    ] {
        let reply = send(&server, "admin", &[("number", "100001"), ("amount", amount)]).await;
        assert_eq!(reply.element_texts("amount_with_tax"), [shown, shown], "{}", reply.body);
        server.assert_rows("select balance from cards where id = 11", &[balance]).await;
    }
    // The group has its own tax row now, and each request added a payment.
    server.assert_rows("select tax_id from cardgroups where id = 10", &["101"]).await;
    server.assert_rows("select count(*) from payments where kind = 'top_up'", &["3"]).await;
    let reply =
        send(&server, "reseller", &[("number", "120001"), ("amount", "12.6"), ("description", &"x".repeat(300))]).await;
    assert_eq!(reply.element_texts("current_balance"), ["3.7205"]);
    assert_eq!(reply.element_texts("new_balance"), ["13.7205"]);
    // 5 + 10 / 0.7441
    server.assert_rows("select balance from cards where id = 12", &["18.439053890606101"]).await;
    server.assert_rows("select length(description) as length from payments where user_id = 12", &["255"]).await;
    server.execute("update currencies set active = 0 where id = 1").await;
    send(&server, "admin", &[("number", "100001"), ("amount", "1")]).await.assert_page_error("Currency disabled");
}

/// Other faults of the card (PIN length, minimal balance, missing balance) don't stop a payment.
#[tokio::test]
async fn payment_is_booked_despite_other_card_faults() {
    let (server, x7) = (server().await, x7_server().await);
    for server in [&server, &x7] {
        insert_fixtures(server).await;
        server.execute("update cards set pin = '1', min_balance = -1, balance = null where id = 11").await;
        let reply = send(server, "admin", &[("number", "100001"), ("amount", "5")]).await;
        assert_eq!(reply.element_texts("new_balance"), ["5.0"], "{}", reply.body);
        server.assert_rows("select balance from cards where id = 11", &["5.000000000000000"]).await;
    }
}

/// Payments and top-ups by caller id of one card run at the same time. None is lost.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_payments_and_top_ups_are_all_booked() {
    let server = server().await;
    insert_fixtures(&server).await;
    server.execute("update cards set callerid = '555', balance = 0 where id = 7; update cardgroups set tell_balance_in_currency = 'USD', tax_id = 1 where id = 7").await;
    let mut tasks = Vec::new();
    for index in 0..40 {
        let server = server.clone();
        tasks.push(tokio::spawn(async move {
            match index % 2 {
                0 => send(&server, "admin", &[("number", "700001"), ("amount", "1.01")]).await,
                _ => server.post_signed("card_by_cli_update", "u=admin&callerid=555&amount=2.5", "2.5555").await,
            }
        }));
    }
    for task in tasks {
        let reply = task.await.unwrap();
        assert_eq!(reply.element_texts("error"), Vec::<&str>::new(), "{}", reply.body);
    }
    server.assert_rows("select trim_scale(balance) as balance from cards where id = 7", &["70.2"]).await;
    server
        .assert_rows(
            "select kind, count(*), trim_scale(sum(amount)) as amount from payments group by kind",
            &["top_up|40|70.2"],
        )
        .await;
}
