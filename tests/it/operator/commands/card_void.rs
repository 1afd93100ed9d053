//! `mortise card void`.

use super::Operator;
use crate::harness::ledger;

const PAYMENTS: &str =
    "select kind, amount, tax, currency, user_id, owner_id, card, reverses, balance_change, caller_id, paymenttype
    from payments order by id";
const CARD: &str = "select sold, balance, callerid, retired_at is not null as retired from cards where id = 2";

/// The amounts of the fixture's cards of group 6, with 19 % tax.
const SALE: &str = "sale|10.084033613445400|1.915966386554626|USD|2|0|1|∅|∅|6|Card";

impl Operator {
    /// The state of the ledger, for [`ledger::assert_holds`].
    pub(super) async fn unpaid_balances(&self) -> String {
        self.server.rows(ledger::UNPAID_BALANCES_QUERY).await.concat()
    }
}

#[tokio::test]
async fn void_refunds_the_sale_and_retires_the_card() {
    let operator = Operator::new().await;
    let before = operator.unpaid_balances().await;
    operator.sell("1111111001").await;
    let void = ["card", "void", "1111111001", "--reason", "the wrong card"];
    let output = operator.run_ok(&void);
    assert_eq!(
        output,
        "The card 1111111001 is void. The balance 10.0840336134454 was removed.\n\
         Refund of the payment 1: -10.0840336134454 USD, tax -1.915966386554626.\n"
    );
    let refund = "refund|-10.084033613445400|-1.915966386554626|USD|2|0|1|1|-10.084033613445400|∅|Card";
    operator.server.assert_rows(PAYMENTS, &[SALE, refund]).await;
    operator.server.assert_rows(CARD, &["0|0.000000000000000|∅|true"]).await;
    operator
        .server
        .assert_rows(
            "select user_id, action, target_type, target_id, data, data2, data3 from actions where target_id = 2 order by id",
            &["6|card_sell_over_api|Card|2|||∅", "0|card_payment_created|Payment|2|2|-10.0840336134454|USD"],
        )
        .await;
    ledger::assert_holds(&operator.server, &before).await;
    operator
        .server
        .assert_rows(
            "select before ->> 'balance', after ->> 'balance', after ->> 'voided', after -> 'refunds' -> 0 ->> 'reverses'
             from change_log",
            &["10.084033613445400|0.000000000000000|the wrong card|1"],
        )
        .await;
    // It is never sold again.
    let sold = operator.server.post_signed("card_from_group_sell", "u=admin&id=6&number=1111111001", "6").await;
    sold.assert_page_error("Free cards was not found");

    // Again: nothing is written.
    operator.server.execute("update change_log set at = '2026-11-03'").await;
    let again = operator.run_ok(&void);
    assert_eq!(again, "The card 1111111001 was voided on 3 Nov 2026 (the wrong card).\n");
    operator
        .server
        .assert_rows("select (select count(*) from payments), (select count(*) from change_log)", &["2|1"])
        .await;
    let card = operator.run_json(&["card", "show", "1111111001"]);
    let verdict = card["verdict"].as_str().unwrap();
    assert!(verdict.starts_with("retired because it was voided on 3 Nov 2026 (the wrong card); sold on"), "{verdict}");
    assert!(verdict.ends_with("refunded"), "{verdict}");
}

#[tokio::test]
async fn used_card_needs_used_and_refund() {
    let operator = Operator::new().await;
    operator.sell("1111111001").await;
    for change in ["first_use = now()", "call_count = 1", "frozen_balance = 1"] {
        operator.server.execute(&format!("update cards set {change} where id = 2")).await;
        let void = ["card", "void", "1111111001", "--reason", "x"];
        operator.assert_error(&void, 1, "was used: say --used and what to refund");
        operator.assert_error(&[&void[..], &["--refund", "full"]].concat(), 1, "was used");
        operator.assert_error(&[&void[..], &["--used"]].concat(), 2, "--refund");
        operator
            .server
            .execute("update cards set first_use = null, call_count = 0, frozen_balance = 0 where id = 2")
            .await;
    }
    operator.server.assert_rows("select count(*) from payments", &["1"]).await;
    operator.assert_error(&["card", "void", "1111111001", "--reason", " "], 2, "--reason");
}

/// A card with two payments: the amount is taken from the sale first, the taxes in proportion.
#[tokio::test]
async fn amount_is_refunded_with_its_share_of_the_tax() {
    let operator = Operator::new().await;
    operator.server.execute("insert into conflines (name, value) values ('API_Allow_payments_ower_API', '1')").await;
    let before = operator.unpaid_balances().await;
    operator.sell("1111111001").await;
    let paid =
        operator.server.post_signed("card_payment_add", "u=admin&number=1111111001&amount=11.90", "111111100111.90");
    assert_eq!(paid.await.element_texts("number"), ["1111111001"]);
    let void = |amount| ["card", "void", "1111111001", "--reason", "half", "--used", "--refund", amount];
    operator.assert_error(&void("30"), 1, "only 20.0840336134454 USD were paid, without tax");
    operator.assert_error(&void("0"), 2, "an amount above 0");
    operator.assert_error(&void("1.1234567890123456"), 2, "an amount above 0");
    operator.server.assert_rows("select count(*) from payments", &["2"]).await;
    let output = operator.run_ok(&void("12.0840336134454"));
    assert!(output.ends_with("Refund of the payment 2: -2.38 USD, tax included.\n"), "{output}");
    // 2 of the 10 without tax of a top-up of 11.9, which has the tax 2.261.
    operator
        .server
        .assert_rows(
            "select reverses, amount, tax, balance_change from payments where kind = 'refund' order by id",
            &[
                "1|-10.084033613445400|-1.915966386554626|-20.084033613445400",
                "2|-2.380000000000000|-0.452200000000000|∅",
            ],
        )
        .await;
    ledger::assert_holds(&operator.server, &before).await;
}

#[tokio::test]
async fn nothing_is_refunded_if_so_chosen() {
    let operator = Operator::new().await;
    let before = operator.unpaid_balances().await;
    operator.sell("1111111001").await;
    let output = operator.run_ok(&["card", "void", "1111111001", "--reason", "stolen", "--refund", "none"]);
    assert!(output.ends_with("Nothing was refunded.\n"), "{output}");
    let write_off = "write_off|0.000000000000000|0.000000000000000|USD|2|0|1|∅|-10.084033613445400|∅|Card";
    operator.server.assert_rows(PAYMENTS, &[SALE, write_off]).await;
    ledger::assert_holds(&operator.server, &before).await;
    let again = operator.run_ok(&["card", "void", "1111111001", "--reason", "stolen"]);
    assert!(again.starts_with("The card 1111111001 was voided on ") && again.lines().count() == 1, "{again}");
    let again = operator.run_ok(&["card", "void", "1111111001", "--reason", "stolen", "--refund", "full"]);
    assert!(
        again.ends_with("\n--refund has no effect now: `mortise card show 1111111001` shows the refunds.\n"),
        "{again}"
    );
    operator.server.assert_rows("select count(*) from payments where kind = 'refund'", &["0"]).await;
}

/// The payment of a card that MOR sold is not known.
#[tokio::test]
async fn card_sold_in_mor_is_voided_without_refund() {
    let operator = Operator::new().await;
    let before = operator.unpaid_balances().await;
    let void = ["card", "void", "1111111000", "--reason", "x"];
    operator.assert_error(&void, 1, "was sold in MOR, its payment is not known here: use --refund none");
    operator.assert_error(&[&void[..], &["--refund", "5"]].concat(), 1, "use --refund none");
    operator.run_ok(&[&void[..], &["--refund", "none"]].concat());
    operator
        .server
        .assert_rows("select balance, callerid, sold from cards where id = 4", &["0.000000000000000|∅|0"])
        .await;
    ledger::assert_holds(&operator.server, &before).await;
}

#[tokio::test]
async fn unsold_and_quarantined_cards_are_refused() {
    let operator = Operator::new().await;
    let void = |number| ["card", "void", number, "--reason", "x"];
    operator.assert_error(&void("1111111001"), 1, "the card 1111111001 was never sold");
    operator.assert_error(&void("4711"), 3, "no card has the number 4711");
    operator.server.execute("update cards set quarantined_at = now(), sold = 1 where id = 3").await;
    operator.assert_error(&void("1111111002"), 1, "is quarantined: decide with `mortise card settle 3`");
    operator.server.assert_rows("select count(*) from payments", &["0"]).await;
}

/// A card that was topped up over its caller id, and got the balance of another card.
#[tokio::test]
async fn caller_id_and_balance_are_removed() {
    let operator = Operator::new().await;
    let before = operator.unpaid_balances().await;
    let by_cli = async |form: &str, hashed: &str| {
        let reply = operator.server.post_signed("card_by_cli_update", &format!("u=admin&{form}"), hashed).await;
        assert_eq!(reply.element_texts("status"), ["ok"], "{}", reply.body);
    };
    by_cli("callerid=999&pin=1001", "1001999").await;
    by_cli("callerid=999&amount=11.9", "11.9999").await;
    by_cli("callerid=999&pin=1002", "1002999").await;
    operator.server.assert_rows(CARD, &["1|30.168067226890800|999|false"]).await;
    operator.run_ok(&["card", "void", "1111111001", "--reason", "x", "--used", "--refund", "full"]);
    operator.server.assert_rows(CARD, &["0|0.000000000000000|∅|true"]).await;
    operator
        .server
        .assert_rows(
            "select reverses, amount, balance_change from payments where kind = 'refund' order by id",
            &["1|-10.084033613445400|-30.168067226890800", "2|-10.000000000000000|∅"],
        )
        .await;
    ledger::assert_holds(&operator.server, &before).await;
}

/// The other card of the e-mail stays in it; an e-mail without cards is deleted, and a sent one stays.
#[tokio::test]
async fn unsent_emails_lose_the_card() {
    let operator = Operator::new().await;
    operator.sell("1111111001").await;
    operator
        .server
        .execute(
            "insert into email_outbox (owner_id, user_id, address, message_id, card_ids, balances, currency, created_at,
                 next_attempt_at, sent_at, failed_at)
             select 0, 6, address, address, card_ids, balances, 'USD', date_added, '2100-01-01', sent_at, failed_at
             from payments, (values
                 ('both', '{1,2,3}'::bigint[], '{1,2,3}'::numeric[], null::timestamp, null::timestamp),
                 ('one', '{2}', '{2}', null, null), ('sent', '{2,3}', '{2,3}', '2026-01-01', null),
                 ('failed', '{3,2}', '{3,2}', null, '2026-01-01')
             ) mail (address, card_ids, balances, sent_at, failed_at)",
        )
        .await;
    let output = operator.run_ok(&["card", "void", "1111111001", "--reason", "x"]);
    assert!(output.ends_with("Taken out of e-mails that were not sent: 3.\n"), "{output}");
    operator
        .server
        .assert_rows(
            "select address, card_ids::text, balances::text from email_outbox order by id",
            &["both|{1,3}|{1,3}", "sent|{2,3}|{2,3}", "failed|{3}|{3}"],
        )
        .await;
}

/// A top-up is refunded to its last digit.
#[tokio::test]
async fn whole_top_up_is_refunded_with_its_tax() {
    let operator = Operator::new().await;
    operator.server.execute("insert into conflines (name, value) values ('API_Allow_payments_ower_API', '1')").await;
    operator.sell("1111111001").await;
    operator.server.post_signed("card_payment_add", "u=admin&number=1111111001&amount=7", "11111110017").await;
    operator.server.assert_rows("select kind, tax_included from payments", &["sale|∅", "top_up|true"]).await;
    // 7 / 1.19 without tax.
    let amount = ["--used", "--refund", "15.966386554621871"];
    let output = operator.run_ok(&[&["card", "void", "1111111001", "--reason", "x"][..], &amount].concat());
    assert!(output.ends_with("Refund of the payment 2: -7.0 USD, tax included.\n"), "{output}");
    operator
        .server
        .assert_rows(
            "select kind, amount, tax, tax_included from payments where user_id = 2 and currency = 'USD' and id in (2, 4) order by id",
            &["top_up|7.000000000000000|1.330000000000000|true", "refund|-7.000000000000000|-1.330000000000000|true"],
        )
        .await;
}

/// `card_by_cli_update` replaces the card of a caller id by one of another group, with the balance.
#[tokio::test]
async fn moved_balance_is_not_refunded_twice() {
    let operator = Operator::new().await;
    operator.sell("1111111001").await;
    operator.server.execute("update cards set callerid = '999' where id = 2").await;
    let form = "u=admin&callerid=999&cardgroup_id=7";
    let reply = operator.server.post_signed("card_by_cli_update", form, "9997").await;
    assert_eq!(reply.element_texts("status"), ["ok"], "{}", reply.body);
    let new_number = reply.element_texts("number")[0].to_owned();
    let void = |number| ["card", "void", number, "--reason", "x"];
    operator.assert_error(
        &void("1111111001"),
        1,
        "the card 1111111001 was used, its balance was moved to another card or user: say --used",
    );
    operator.assert_error(&void(&new_number), 1, "was used: say --used and what to refund");
    operator.server.assert_rows("select count(*) from payments where kind = 'refund'", &["0"]).await;
}
