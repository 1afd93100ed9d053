//! `card_from_group_sell` (`endpoints/card_from_group_sell.md`): selection of cards, replies, errors, vouchers, locks.

use crate::harness::{server, server_with_settings, x7_server};

pub const SELL: &str = "card_from_group_sell";

/// Counts the rows that a sale can add.
const ROW_COUNTS: &str = "select (select count(*) from payments) p, (select count(*) from actions) a, (select count(*) from ccorders) o,
    (select count(*) from cclineitems) l, (select count(*) from cards where sold = 1) c, (select count(*) from taxes) t";
const UNCHANGED: &[&str] = &["0|0|0|0|1|4"];

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
async fn published_example_works_unchanged() {
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
async fn quantity_is_parsed_as_a_number_and_at_least_one() {
    for (quantity, numbers) in [
        ("", vec!["0000000042"]),
        ("&quantity=", vec!["0000000042"]),
        ("&quantity=0", vec!["0000000042"]),
        ("&quantity=-3", vec!["0000000042"]),
        ("&quantity=1.9", vec!["0000000042"]),
        ("&quantity=%202%20", vec!["0000000042", "1111111001"]),
        ("&quantity=0.3e1", vec!["0000000042", "1111111001", "1111111002"]),
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

/// A quantity that is no number sells nothing; in x7 its leading number counts, and 1 without one.
#[tokio::test]
async fn quantity_that_is_not_a_number_is_refused() {
    let (server, x7) = (server().await, x7_server().await);
    for (quantity, x7_cards) in [("VFT", 1), ("2x", 2), ("2,0", 2), ("NaN", 1), ("1__0", 1), ("0x2", 1), ("2 0", 2)] {
        let form = format!("u=admin&id=6&quantity={quantity}");
        let hashed = format!("6{quantity}");
        server.post_signed(SELL, &form, &hashed).await.assert_page_error("Failed to make transaction");
        x7.execute("delete from payments; update cards set sold = 0, active = 0").await;
        assert_eq!(x7.post_signed(SELL, &form, &hashed).await.element_texts("pin").len(), x7_cards, "{quantity}");
    }
    server.assert_rows(ROW_COUNTS, UNCHANGED).await;
    // The group is looked for first, and beside a number the quantity is not read.
    server.post_signed(SELL, "u=admin&id=999&quantity=x", "999x").await.assert_page_error("Cardgroup was not found");
    let reply = server.post_signed(SELL, "u=admin&id=6&quantity=x&number=42", "6x").await;
    assert_eq!(reply.element_texts("number"), ["0000000042"]);
}

#[tokio::test]
async fn errors_in_documented_order() {
    let server = server_with_settings(&[("max_quantity", "3")]).await;
    let sell = async |form: &str, hashed: &str| server.post_signed(SELL, &format!("u=admin&{form}"), hashed).await;
    // Each request corrects what the request before it was refused for.
    sell("id=999&number=1&quantity=4&curr=XXX", "9994").await.assert_page_error("Cardgroup was not found");
    sell("id=11&number=1&quantity=4&curr=XXX", "114").await.assert_page_error("Free cards was not found");
    sell("id=6&number=1111111000&quantity=4&curr=XXX", "64").await.assert_page_error("Card is already sold");
    sell("id=6&number=1111111001&quantity=4&curr=XXX", "64").await.assert_page_error("Currency was not found");
    sell("id=6&quantity=4&curr=XXX", "64").await.assert_page_error("Failed to make transaction");
    sell("id=11&quantity=3&curr=XXX", "113").await.assert_page_error("Free cards was not found");
    sell("id=6&quantity=3&curr=XXX", "63").await.assert_page_error("Currency was not found");
    sell("id=6&quantity=3&curr=jpy", "63").await.assert_page_error("Currency was not found");
    server.assert_rows(ROW_COUNTS, UNCHANGED).await;
    assert_eq!(sell("id=6&quantity=3&curr=EUR", "63").await.element_texts("pin"), ["0042", "1001", "1002"]);
}

#[tokio::test]
async fn group_must_be_owned_and_visible() {
    let server = server().await;
    for (user, group, is_found) in [
        ("admin", 6, true),
        ("accountant", 6, true),
        ("reseller", 6, false),
        ("admin", 8, false),
        ("admin", 12, false),
        ("accountant", 12, false),
        ("reseller", 12, true),
    ] {
        let reply = server.post_signed(SELL, &format!("u={user}&id={group}"), &group.to_string()).await;
        if is_found {
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
async fn number_selects_the_card_by_value() {
    let server = server().await;
    let sell =
        async |number: &str| server.post_signed(SELL, &format!("u=admin&id=6&quantity=2&number={number}"), "62").await;
    sell("43").await.assert_page_error("Free cards was not found");
    sell("-42").await.assert_page_error("Free cards was not found");
    sell(&"9".repeat(300)).await.assert_page_error("Free cards was not found");
    // Cards that are hidden, of another group, or sold.
    sell("1111110999").await.assert_page_error("Free cards was not found");
    sell("700001").await.assert_page_error("Free cards was not found");
    sell("1111111000").await.assert_page_error("Card is already sold");
    assert_eq!(sell("42").await.element_texts("number"), ["0000000042"]);
    sell("000042").await.assert_page_error("Card is already sold");
    assert_eq!(sell("%2B1111111003.0+").await.element_texts("number"), ["1111111003"]);
    server.assert_rows("select count(*) from payments", &["2"]).await;
    // A blank number counts as absent: the quantity is used.
    assert_eq!(sell("+").await.element_texts("number"), ["1111111001", "1111111002"]);
}

/// A number that no card can have never sells another card.
#[tokio::test]
async fn number_that_is_not_one_sells_nothing() {
    let server = server().await;
    let sell = async |number: &str| server.post_signed(SELL, &format!("u=admin&id=6&number={number}"), "6").await;
    for number in ["x1", "42x", "4,2", "42.5", "-42", "NaN", "1e999999999999", "1e-1", "4 2", "0x2A", "0", "0000", "-0"]
    {
        sell(number).await.assert_page_error("Free cards was not found");
    }
    server.assert_rows(ROW_COUNTS, UNCHANGED).await;
    server.execute("update cards set number = '0000000000' where number = '1111111002'").await;
    assert_eq!(sell("0").await.element_texts("number"), ["0000000000"]);
    sell("0000").await.assert_page_error("Card is already sold");
}

/// In x7 the leading number counts. A number that is not above 0 counts as absent.
#[tokio::test]
async fn x7_reads_the_leading_number() {
    let server = x7_server().await;
    let sell = async |number: &str| server.post_signed(SELL, &format!("u=admin&id=6&number={number}"), "6").await;
    assert_eq!(sell("1111111003x").await.element_texts("number"), ["1111111003"]);
    for (number, next) in [("0", "0000000042"), ("x1", "1111111001"), ("-42", "1111111002")] {
        assert_eq!(sell(number).await.element_texts("number"), [next], "{number}");
    }
}

#[tokio::test]
async fn retired_cards_are_not_sold() {
    let server = server().await;
    server.execute("update cards set retired_at = now() where cardgroup_id = 6 and id <> 3").await;
    server.post_signed(SELL, "u=admin&id=6&number=1111111001", "6").await.assert_page_error("Free cards was not found");
    assert_eq!(server.post_signed(SELL, "u=admin&id=6&quantity=9", "69").await.element_texts("number"), ["1111111002"]);
    server.post_signed(SELL, "u=admin&id=6", "6").await.assert_page_error("Free cards was not found");
}

/// A withheld or quarantined card is not sold, not even by its number.
#[tokio::test]
async fn withheld_and_quarantined_cards_are_not_sold() {
    for server in [server().await, x7_server().await] {
        for state in
            ["withheld = 'blocked'", "withheld = 'assigned'", "withheld = 'reserved'", "quarantined_at = now()"]
        {
            server
                .execute(&format!(
                    "update cards set withheld = null, quarantined_at = null;
                     update cards set {state} where cardgroup_id = 6 and sold = 0"
                ))
                .await;
            for (form, hashed) in [("u=admin&id=6&number=1111111001", "6"), ("u=admin&id=6&quantity=2", "62")] {
                server.post_signed(SELL, form, hashed).await.assert_page_error("Free cards was not found");
            }
        }
        server.assert_rows("select count(*) from payments", &["0"]).await;
        server.execute("update cards set quarantined_at = null where id in (2, 3)").await;
        assert_eq!(
            server.post_signed(SELL, "u=admin&id=6&quantity=9", "69").await.element_texts("number"),
            ["1111111001", "1111111002"]
        );
    }
}

/// Each way to sell a card writes the caller: the next card with and without a key, a batch, a card by its number.
#[tokio::test]
async fn payments_name_the_caller() {
    for server in [server().await, x7_server().await] {
        for form in ["", "&request_id=key", "&number=1111111003"] {
            let reply = server.post_signed(SELL, &format!("u=accountant&id=6{form}"), "6").await;
            assert_eq!(reply.element_texts("pin").len(), 1, "{}", reply.body);
        }
        server
            .assert_rows(
                "select user_id, caller_id, owner_id, balance_change from payments order by user_id",
                &["1|6|0|∅", "2|6|0|∅", "6|6|0|∅"],
            )
            .await;
    }
}

#[tokio::test]
async fn vouchers_of_sold_cards_are_redeemed() {
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
    // Groups without `disable_voucher` redeem no vouchers.
    server.post_signed(SELL, "u=admin&id=6&number=1111111001", "6").await;
    server.assert_rows("select use_date from vouchers where id = 3", &["∅"]).await;
}

#[tokio::test]
async fn x7_reports_invalid_cards_in_their_position() {
    for (change, position) in [
        ("pin = '12345'", 1),
        ("pin = null", 1),
        ("pin = '    '", 1),
        ("min_balance = -1", 1),
        ("number = '00000000001'", 0),
    ] {
        let server = x7_server().await;
        server.execute(&format!("update cards set {change} where id = 2")).await;
        let reply = server.post_signed(SELL, "u=admin&id=6&quantity=3", "63").await;
        let is_status: Vec<bool> = reply
            .body
            .lines()
            .filter(|line| line.starts_with("    <c") || line.starts_with("    <s"))
            .map(|line| line.contains("<status>"))
            .collect();
        let mut expected = vec![false; 3];
        expected[position] = true;
        assert_eq!(is_status, expected, "{change}: {}", reply.body);
        assert_eq!(reply.element_texts("error"), ["Card error"]);
        server.assert_rows("select sold from cards where id = 2", &["0"]).await;
        server.assert_rows("select count(*) from payments", &["2"]).await;
    }
}

#[tokio::test]
async fn sells_what_is_in_stock_when_the_quantity_is_larger() {
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
async fn locked_cards_are_skipped_unless_all_are_locked() {
    let server = server().await;
    // Another transaction holds all unsold cards of group 6 but one.
    let mut transaction = server.pool.begin().await.unwrap();
    sqlx::query("select id from cards where cardgroup_id = 6 and id <> 3 for no key update")
        .execute(&mut *transaction)
        .await
        .unwrap();
    assert_eq!(server.post_signed(SELL, "u=admin&id=6", "6").await.element_texts("number"), ["1111111002"]);
    // No unlocked card is left: the sale waits for the lock holder.
    let buyer = server.clone();
    let waiting = tokio::spawn(async move { buyer.post_signed(SELL, "u=admin&id=6&quantity=9", "69").await });
    server.wait_for_lock_waiter().await;
    transaction.rollback().await.unwrap();
    assert_eq!(waiting.await.unwrap().element_texts("number"), ["0000000042", "1111111001", "1111111003"]);
}

/// An operator sets sold = 0 on a sold card by hand. Its sale payment still excludes it.
#[tokio::test]
async fn card_with_a_sale_payment_is_not_sold_again() {
    let server = server().await;
    server.post_signed(SELL, "u=admin&id=6", "6").await;
    server.execute("update cards set sold = 0 where id = 6").await;
    server.post_signed(SELL, "u=admin&id=6&number=42", "6").await.assert_page_error("Card is already sold");
    // Other cards are still sold.
    assert_eq!(server.post_signed(SELL, "u=admin&id=6&quantity=9", "69").await.element_texts("number").len(), 3);
    server.assert_rows("select count(*), count(distinct user_id) as cards from payments", &["4|4"]).await;
    server.assert_rows("select * from card_stock_differences", &[]).await;
}

/// The group is hidden while the sale waits for a card's lock. The sale leaves no rows.
#[tokio::test]
async fn group_hidden_during_the_lock_wait_sells_nothing() {
    let server = server().await;
    for form in ["u=admin&id=6&number=42", "u=admin&id=6"] {
        let mut transaction = server.pool.begin().await.unwrap();
        sqlx::query("select id from cards where cardgroup_id = 6 for no key update")
            .execute(&mut *transaction)
            .await
            .unwrap();
        let buyer = server.clone();
        let waiting = tokio::spawn(async move { buyer.post_signed(SELL, form, "6").await });
        server.wait_for_lock_waiter().await;
        server.execute("update cardgroups set hidden = 1 where id = 6").await;
        transaction.rollback().await.unwrap();
        waiting.await.unwrap().assert_page_error("Failed to make transaction");
        server.assert_rows(ROW_COUNTS, UNCHANGED).await;
        server.execute("update cardgroups set hidden = 0 where id = 6").await;
    }
}

/// A sale waits for a lock for `database_acquire_timeout_ms`. Other sales go on.
#[tokio::test]
async fn lock_timeout_returns_503() {
    let server = server_with_settings(&[("database_acquire_timeout_ms", "2000")]).await;
    let mut transaction = server.pool.begin().await.unwrap();
    sqlx::query("select id from cards where id = 6 for no key update").execute(&mut *transaction).await.unwrap();
    let reply = server.post_signed(SELL, "u=admin&id=6&number=42", "6").await;
    assert_eq!((reply.status.as_u16(), reply.header("retry-after")), (503, Some("1")));
    assert_eq!(server.post_signed(SELL, "u=admin&id=6", "6").await.element_texts("number"), ["1111111001"]);
    transaction.rollback().await.unwrap();
    assert_eq!(server.post_signed(SELL, "u=admin&id=6&number=42", "6").await.element_texts("number"), ["0000000042"]);
}

#[tokio::test]
async fn missing_and_empty_pins_are_empty_elements() {
    let server = server().await;
    server.execute("update cards set pin = null where id = 6; update cards set pin = '' where id = 2").await;
    let reply = server.post_signed(SELL, "u=admin&id=6&quantity=2", "62").await;
    let pins: Vec<&str> = reply.body.lines().filter(|line| line.contains("pin")).map(str::trim).collect();
    assert_eq!(pins, ["<pin/>", "<pin></pin>"]);
}

#[tokio::test]
async fn long_number_is_found_by_value() {
    let server = server().await;
    let number = format!("0{}", "7".repeat(40));
    server.execute(&format!("insert into cards (cardgroup_id, number, pin) values (11, '{number}', '5555')")).await;
    assert_eq!(
        server.post_signed(SELL, &format!("u=admin&id=11&number={number}"), "11").await.element_texts("pin"),
        ["5555"]
    );
}
