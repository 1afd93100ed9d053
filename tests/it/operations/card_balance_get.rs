//! `card_balance_get` (`endpoints/card_balance_get.md`).

use crate::harness::{Reply, Server, hash, server, x7_server};

const GET: &str = "card_balance_get";

async fn send(server: &Server, user: &str, number: &str) -> Reply {
    let key = if user == "reseller" { "reskey" } else { "secret" };
    let form = format!("u={user}&number={}&hash={}", number.replace(' ', "+").replace('%', "%25"), hash(number, key));
    server.post(GET, &form).await
}

#[track_caller]
fn assert_error(reply: &Reply, message: &str) {
    reply.assert_body(&format!("<page>\n  <error>{message}</error>\n</page>"));
}

#[tokio::test]
async fn shows_the_balance() {
    let server = server().await;
    send(&server, "admin", "700001").await.assert_body(
        r"
        <page>
          <calling_card>
            <balance>1.366026910730141</balance>
            <currency>USD</currency>
          </calling_card>
        </page>
    ",
    );
    for (number, balance, shown) in [
        ("120001", "-4.25", "-4.25"),
        ("120001", "0", "0.0"),
        ("800001", "0.000000000000001", "0.000000000000001"),
        ("1111110999", "1000000", "1000000.0"),
    ] {
        server.execute(&format!("update cards set balance = {balance} where number = '{number}'")).await;
        assert_eq!(send(&server, "admin", number).await.element_texts("balance"), [shown], "{number}");
    }
}

#[tokio::test]
async fn errors_in_documented_order() {
    let (server, x7) = (server().await, x7_server().await);
    for server in [&server, &x7] {
        server.post(GET, "u=user&number=99").await.assert_body("<status>\n  <error>Incorrect hash</error>\n</status>");
        for user in ["unknown", ""] {
            assert_error(&send(server, user, "99").await, "User was not found");
        }
        for user in ["accountant", "accountant_zero", "user", "partner", "reseller_none"] {
            assert_error(&send(server, user, "99").await, "You are not authorized to use this functionality");
        }
        for number in ["99", "", "%", "70000_", "700001x", " 700001", "0700001", "'"] {
            assert_error(&send(server, "admin", number).await, "Calling Card was not found");
        }
        assert_error(&server.post_signed(GET, "u=admin", "").await, "Calling Card was not found");
        // The right to read is enough for a reseller. A reseller sees only own cards.
        server
            .execute("update cards set owner_id = 3 where id = 12; update cards set owner_id = 4 where id = 13")
            .await;
        assert_eq!(send(server, "reseller", "120001").await.element_texts("balance"), ["5.0"]);
        assert_eq!(send(server, "reseller_read", "120002").await.element_texts("currency"), ["USD"]);
        assert_error(&send(server, "reseller", "120002").await, "Calling Card was not found");
        assert_error(&send(server, "reseller", "700001").await, "Calling Card was not found");
        // Trailing spaces of a number are ignored.
        assert_eq!(send(server, "admin", "700001  ").await.element_texts("balance"), ["1.366026910730141"]);
    }
    server.post(GET, "u=user&number=99").await.assert_status_error("Incorrect hash");
}

/// The balance is in the system's currency for every user. A missing balance is shown as 0; an X7 server shows an empty
/// element.
#[tokio::test]
async fn system_currency_and_missing_balance() {
    let (server, x7) = (server().await, x7_server().await);
    for (server, missing) in [(&server, "<balance>0.0</balance>"), (&x7, "<balance/>")] {
        server.execute("update users set currency_id = 2").await;
        let reply = send(server, "admin", "700001").await;
        assert_eq!(
            (reply.element_texts("balance"), reply.element_texts("currency")),
            (vec!["1.366026910730141"], vec!["USD"])
        );
        assert!(send(server, "admin", "120002").await.body.contains(missing));
    }
}

/// If a deleted card and another card have the same number, the card that isn't deleted is shown.
#[tokio::test]
async fn card_that_is_not_deleted_wins_over_a_deleted_one() {
    let server = server().await;
    server
        .execute("insert into cards (id, cardgroup_id, number, pin, balance, hidden) values (50, 11, '555555', 'a', 1, 1), (51, 7, '555555', 'b', 2, 0)")
        .await;
    assert_eq!(send(&server, "admin", "555555").await.element_texts("balance"), ["2.0"]);
    server.execute("delete from cards where id = 51").await;
    assert_eq!(send(&server, "admin", "555555").await.element_texts("balance"), ["1.0"]);
    let plan = server.query_plan(&["select balance as"], "force_generic_plan", &["'555555'", "null"]).await;
    server.execute("insert into cards (cardgroup_id, number, pin) select 11, i::text, i::text from generate_series(1000000, 1050000) i; analyze").await;
    let large = server.query_plan(&["select balance as"], "force_generic_plan", &["'555555'", "null"]).await;
    assert!(!large.contains("Seq Scan"), "{plan}\n{large}");
}
