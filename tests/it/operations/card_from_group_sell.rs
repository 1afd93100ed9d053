//! `card_from_group_sell` (`endpoints/card_from_group_sell.md`).

use crate::harness::{hash, server, server_with_settings, x7_server};

const SELL: &str = "card_from_group_sell";

/// What a sale must leave behind, all of it, for a card of group 6.
const EVERYTHING: &str = "select (select count(*) from payments) p, (select count(*) from actions) a, (select count(*) from ccorders) o,
    (select count(*) from cclineitems) l, (select count(*) from cards where sold = 1) c, (select count(*) from taxes) t";
const NOTHING: &[&str] = &["0|0|0|0|1|4"];

#[tokio::test]
async fn sells_the_next_card_by_number() {
    let server = server().await;
    server.post_signed(SELL, "u=admin&id=6", "6").await.assert_body(
        r"
        <page>
          <cards>
            <card>
              <pin>0042</pin>
              <number>0000000042</number>
              <balance_without_vat>10.0840336134454</balance_without_vat>
              <currency>USD</currency>
            </card>
          </cards>
        </page>
    ",
    );
    server
        .assert_rows(
            "select id, sold, active, balance from cards where sold = 1 and id <> 4",
            &["6|1|1|10.084033613445400"],
        )
        .await;
    server
        .assert_rows(
            "select paymenttype, amount, currency, email, completed, fee, gross, tax, user_id, vat_percent, owner_id, card,
                 description, provider_id, kind, date_added = shipped_at as at_once, date_added between now() - interval '1 minute' and now() as now
             from payments",
            &["Card|10.084033613445400|USD|∅|1|0.000000000000000|0.000000000000000|1.915966386554626|6\
               |0.000000000000000|0|1||-1|sale|true|true"],
        )
        .await;
    server
        .assert_rows(
            "select user_id, action, target_type, target_id, data, data2, data3, data4, processed from actions order by id",
            &[
                "0|card_payment_created|Payment|1|6|10.0840336134454|USD|∅|0",
                "0|card_sell_over_api|Card|6|||∅|∅|0",
            ],
        )
        .await;
    server.assert_rows("select * from ccorders", &[]).await;
    server.assert_rows("select * from card_stock_differences", &[]).await;
}

#[tokio::test]
async fn the_published_pages_request_works_to_the_letter() {
    let server = server().await;
    server.execute("update users set username = 'username' where id = 0; update conflines set value = '456789' where name = 'API_Secret_Key' and owner_id = 0").await;
    let uri = "/billing/api/buy_card_from_callingroup?u=username&id=6&quantity=2&hash=37086d860581fabc278413cd1a417d5c079f6eba";
    server.get(uri).await.assert_body(
        r"
        <page>
          <cards>
            <card>
              <pin>0042</pin>
              <number>0000000042</number>
              <balance_without_vat>10.0840336134454</balance_without_vat>
              <currency>USD</currency>
            </card>
            <card>
              <pin>1001</pin>
              <number>1111111001</number>
              <balance_without_vat>10.0840336134454</balance_without_vat>
              <currency>USD</currency>
            </card>
          </cards>
        </page>
    ",
    );
}

#[tokio::test]
async fn quantity_reads_as_a_number_and_is_at_least_one() {
    for (quantity, numbers) in [
        ("", vec!["0000000042"]),
        ("&quantity=", vec!["0000000042"]),
        ("&quantity=0", vec!["0000000042"]),
        ("&quantity=-3", vec!["0000000042"]),
        ("&quantity=VFT", vec!["0000000042"]),
        ("&quantity=%202x", vec!["0000000042", "1111111001"]),
        ("&quantity=1_0", vec!["0000000042", "1111111001", "1111111002", "1111111003"]),
        ("&quantity=4", vec!["0000000042", "1111111001", "1111111002", "1111111003"]),
    ] {
        let server = server().await;
        let value = quantity.trim_start_matches("&quantity=").replace("%20", " ");
        let reply = server.post_signed(SELL, &format!("u=admin&id=6{quantity}"), &format!("6{value}")).await;
        assert_eq!(reply.element_texts("number"), numbers, "{quantity}");
        assert_eq!(server.rows("select count(*) from payments").await, [numbers.len().to_string()]);
    }
}

#[tokio::test]
async fn errors_in_their_order() {
    let server = server_with_settings(&[("max_quantity", "3")]).await;
    let ask = async |form: &str, hashed: &str| server.post_signed(SELL, &format!("u=admin&{form}"), hashed).await;
    // Each row mends what the row above was refused for.
    ask("id=999&number=1&quantity=4&curr=XXX", "9994").await.assert_page_error("Cardgroup was not found");
    ask("id=11&number=1&quantity=4&curr=XXX", "114").await.assert_page_error("Free cards was not found");
    ask("id=6&number=1111111000&quantity=4&curr=XXX", "64").await.assert_page_error("Card is already sold");
    ask("id=6&number=1111111001&quantity=4&curr=XXX", "64").await.assert_page_error("Currency was not found");
    ask("id=6&quantity=4&curr=XXX", "64").await.assert_page_error("Failed to make transaction");
    ask("id=11&quantity=3&curr=XXX", "113").await.assert_page_error("Free cards was not found");
    ask("id=6&quantity=3&curr=XXX", "63").await.assert_page_error("Currency was not found");
    ask("id=6&quantity=3&curr=jpy", "63").await.assert_page_error("Currency was not found");
    server.assert_rows(EVERYTHING, NOTHING).await;
    assert_eq!(ask("id=6&quantity=3&curr=EUR", "63").await.element_texts("pin"), ["0042", "1001", "1002"]);
}

#[tokio::test]
async fn a_group_is_the_owners_and_not_hidden() {
    let server = server().await;
    for (user, group, found) in [
        ("admin", 6, true),
        ("accountant", 6, true),
        ("reseller", 6, false),
        ("admin", 8, false),
        ("admin", 12, false),
        ("accountant", 12, false),
        ("reseller", 12, true),
    ] {
        let reply = server.post_signed(SELL, &format!("u={user}&id={group}"), &group.to_string()).await;
        if found {
            assert_eq!(reply.element_texts("pin").len(), 1, "{user} {group}");
        } else {
            reply.assert_page_error("Cardgroup was not found");
        }
    }
    for id in ["", "VFT", "-6", "99999999999999999999"] {
        server.post_signed(SELL, &format!("u=admin&id={id}"), id).await.assert_page_error("Cardgroup was not found");
    }
    assert_eq!(server.post_signed(SELL, "u=admin&id=6abc", "6abc").await.element_texts("pin").len(), 1);
}

#[tokio::test]
async fn a_number_names_the_card_by_its_value() {
    let server = server().await;
    let ask =
        async |number: &str| server.post_signed(SELL, &format!("u=admin&id=6&quantity=2&number={number}"), "62").await;
    ask("43").await.assert_page_error("Free cards was not found");
    ask("-42").await.assert_page_error("Free cards was not found");
    ask(&"9".repeat(300)).await.assert_page_error("Free cards was not found");
    // Hidden, of another group, sold.
    ask("1111110999").await.assert_page_error("Free cards was not found");
    ask("700001").await.assert_page_error("Free cards was not found");
    ask("1111111000").await.assert_page_error("Card is already sold");
    assert_eq!(ask("42").await.element_texts("number"), ["0000000042"]);
    ask("000042").await.assert_page_error("Card is already sold");
    assert_eq!(ask("+1111111003x").await.element_texts("number"), ["1111111003"]);
    // As if absent: quantity counts.
    assert_eq!(ask("0").await.element_texts("number"), ["1111111001", "1111111002"]);
    server.execute("delete from payments; update cards set sold = 0, active = 0").await;
    assert_eq!(ask("").await.element_texts("number").len(), 2);
    assert_eq!(ask("x1").await.element_texts("number").len(), 2);
    server.assert_rows("select count(*) from payments", &["4"]).await;
}

#[tokio::test]
async fn a_retired_card_never_goes_on_sale_again() {
    let server = server().await;
    server.execute("update cards set retired_at = now() where cardgroup_id = 6 and id <> 3").await;
    server.post_signed(SELL, "u=admin&id=6&number=1111111001", "6").await.assert_page_error("Free cards was not found");
    assert_eq!(server.post_signed(SELL, "u=admin&id=6&quantity=9", "69").await.element_texts("number"), ["1111111002"]);
    server.post_signed(SELL, "u=admin&id=6", "6").await.assert_page_error("Free cards was not found");
}

#[tokio::test]
async fn a_payment_in_another_currency() {
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

#[tokio::test]
async fn taxes_that_are_not_compound_add_up() {
    let server = server().await;
    server.post_signed(SELL, "u=admin&id=9&number=900002", "9").await;
    server.assert_rows("select amount, tax from payments", &["3.000000000000000|0.780000000000000"]).await;
}

#[tokio::test]
async fn a_group_without_its_tax_row_is_taxed_as_its_owner() {
    let server = server().await;
    server.execute("insert into cards (cardgroup_id, number, pin, balance) values (10, '100002', '1102', 10)").await;
    server.execute("update users set tax_id = 2 where id = 0").await;
    server.post_signed(SELL, "u=admin&id=10", "10").await;
    // Without either, the settings' defaults.
    server.execute("update users set tax_id = 888 where id = 0").await;
    server.post_signed(SELL, "u=admin&id=10", "10").await;
    server.assert_rows("select tax from payments order by id", &["1.330000000000000", "0.750000000000000"]).await;
    server.assert_rows("select count(*) from taxes", &["4"]).await;
}

#[tokio::test]
async fn an_x7_server_writes_the_missing_tax_rows() {
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
async fn the_groups_vouchers_are_spent() {
    let server = server().await;
    server.post_signed(SELL, "u=admin&id=9&quantity=2", "92").await;
    server
        .assert_rows(
            "select id, use_date > now() - interval '1 minute' as now from vouchers order by id",
            &["1|true", "2|false", "3|∅"],
        )
        .await;
    server
        .assert_rows(
            "select action, target_type, target_id, data, data2 from actions order by id",
            &[
                "card_payment_created|Payment|1|9|3.0",
                "Disable_Voucher_when_Card_is_used|Voucher|1|900001|9",
                "card_sell_over_api|Card|9||",
                "card_payment_created|Payment|2|10|3.0",
                "card_sell_over_api|Card|10||",
            ],
        )
        .await;
    // Only where the group says so.
    server.post_signed(SELL, "u=admin&id=6&number=1111111001", "6").await;
    server.assert_rows("select use_date from vouchers where id = 3", &["∅"]).await;
}

#[tokio::test]
async fn an_email_writes_order_rows() {
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
async fn an_empty_email_counts_for_x7_only_and_a_bad_one_undoes_nothing() {
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

#[tokio::test]
async fn an_x7_server_counts_in_the_callers_and_the_groups_currency() {
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
    // A currency that nobody knows: rate 0. A caller without one: rate 1.
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
async fn an_x7_server_names_unsound_cards_among_the_others() {
    for (flaw, place) in [
        ("pin = '12345'", 1),
        ("pin = null", 1),
        ("pin = '    '", 1),
        ("min_balance = -1", 1),
        ("number = '00000000001'", 0),
    ] {
        let server = x7_server().await;
        server.execute(&format!("update cards set {flaw} where id = 2")).await;
        let reply = server.post_signed(SELL, "u=admin&id=6&quantity=3", "63").await;
        let lines: Vec<bool> = reply
            .body
            .lines()
            .filter(|line| line.starts_with("    <c") || line.starts_with("    <s"))
            .map(|line| line.contains("<status>"))
            .collect();
        let mut expected = vec![false; 3];
        expected[place] = true;
        assert_eq!(lines, expected, "{flaw}: {}", reply.body);
        assert_eq!(reply.element_texts("error"), ["Card error"]);
        server.assert_rows("select sold from cards where id = 2", &["0"]).await;
        server.assert_rows("select count(*) from payments", &["2"]).await;
    }
}

#[tokio::test]
async fn odd_balances_are_sold_as_they_are() {
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
async fn as_many_as_there_are() {
    let server = server().await;
    assert_eq!(server.post_signed(SELL, "u=admin&id=6&quantity=1000", "61000").await.element_texts("number").len(), 4);
    server.post_signed(SELL, "u=admin&id=6&quantity=1000", "61000").await.assert_page_error("Free cards was not found");
    server
        .post_signed(SELL, "u=admin&id=6&quantity=1001", "61001")
        .await
        .assert_page_error("Failed to make transaction");
    server.assert_rows("select * from card_stock_differences", &[]).await;
}

#[tokio::test]
async fn a_card_that_is_being_sold_is_waited_for_only_when_it_is_the_last() {
    let server = server().await;
    // Somebody's sale of all but one card of group 6 is under way.
    let mut other = server.pool.begin().await.unwrap();
    sqlx::query("select id from cards where cardgroup_id = 6 and id <> 3 for no key update")
        .execute(&mut *other)
        .await
        .unwrap();
    assert_eq!(server.post_signed(SELL, "u=admin&id=6", "6").await.element_texts("number"), ["1111111002"]);
    // Now none is free, and the buyer waits for what becomes of the others.
    let router = server.clone();
    let waiting = tokio::spawn(async move { router.post_signed(SELL, "u=admin&id=6&quantity=9", "69").await });
    server.wait_for_lock_waiter().await;
    other.rollback().await.unwrap();
    assert_eq!(waiting.await.unwrap().element_texts("number"), ["0000000042", "1111111001", "1111111003"]);
}

/// Somebody writes sold = 0 into a sold card by hand.
#[tokio::test]
async fn a_card_that_was_sold_is_never_offered_again() {
    let server = server().await;
    server.post_signed(SELL, "u=admin&id=6", "6").await;
    server.execute("update cards set sold = 0 where id = 6").await;
    server.post_signed(SELL, "u=admin&id=6&number=42", "6").await.assert_page_error("Card is already sold");
    // And doesn't stand in the way of the others.
    assert_eq!(server.post_signed(SELL, "u=admin&id=6&quantity=9", "69").await.element_texts("number").len(), 3);
    server.assert_rows("select count(*), count(distinct user_id) as cards from payments", &["4|4"]).await;
    server.assert_rows("select * from card_stock_differences", &[]).await;
}

/// While a buyer waits for a card, its group is hidden: nothing of the sale may remain.
#[tokio::test]
async fn a_group_that_is_hidden_meanwhile_sells_nothing() {
    let server = server().await;
    for form in ["u=admin&id=6&number=42", "u=admin&id=6"] {
        let mut other = server.pool.begin().await.unwrap();
        sqlx::query("select id from cards where cardgroup_id = 6 for no key update")
            .execute(&mut *other)
            .await
            .unwrap();
        let buyer = server.clone();
        let waiting = tokio::spawn(async move { buyer.post_signed(SELL, form, "6").await });
        server.wait_for_lock_waiter().await;
        server.execute("update cardgroups set hidden = 1 where id = 6").await;
        other.rollback().await.unwrap();
        waiting.await.unwrap().assert_page_error("Failed to make transaction");
        server.assert_rows(EVERYTHING, NOTHING).await;
        server.execute("update cardgroups set hidden = 0 where id = 6").await;
    }
}

/// A lock that somebody holds is waited for as long as the setting says, and costs others nothing.
#[tokio::test]
async fn a_lock_that_is_not_let_go_ends_in_503() {
    let server = server_with_settings(&[("database_acquire_timeout_ms", "2000")]).await;
    let mut other = server.pool.begin().await.unwrap();
    sqlx::query("select id from cards where id = 6 for no key update").execute(&mut *other).await.unwrap();
    let reply = server.post_signed(SELL, "u=admin&id=6&number=42", "6").await;
    assert_eq!((reply.status.as_u16(), reply.header("retry-after")), (503, Some("1")));
    assert_eq!(server.post_signed(SELL, "u=admin&id=6", "6").await.element_texts("number"), ["1111111001"]);
    other.rollback().await.unwrap();
    assert_eq!(server.post_signed(SELL, "u=admin&id=6&number=42", "6").await.element_texts("number"), ["0000000042"]);
}

#[tokio::test]
async fn a_card_without_a_pin_has_none() {
    let server = server().await;
    server.execute("update cards set pin = null where id = 6; update cards set pin = '' where id = 2").await;
    let reply = server.post_signed(SELL, "u=admin&id=6&quantity=2", "62").await;
    let pins: Vec<&str> = reply.body.lines().filter(|line| line.contains("pin")).map(str::trim).collect();
    assert_eq!(pins, ["<pin/>", "<pin></pin>"]);
}

#[tokio::test]
async fn a_long_number_is_found_by_its_value() {
    let server = server().await;
    let number = format!("0{}", "7".repeat(40));
    server.execute(&format!("insert into cards (cardgroup_id, number, pin) values (11, '{number}', '5555')")).await;
    assert_eq!(
        server.post_signed(SELL, &format!("u=admin&id=11&number={number}"), "11").await.element_texts("pin"),
        ["5555"]
    );
}

/// Of a rate that has to be divided, fifteen decimals are printed and stored.
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
async fn a_reseller_without_taxes_gets_the_admins() {
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
