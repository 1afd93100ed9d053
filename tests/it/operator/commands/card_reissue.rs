//! `mortise card reissue`.

use super::Operator;
use crate::harness::ledger;

const CARD_COLUMNS: &str = "select number, balance, sold, callerid, first_use::date, name, language, user_id, retired_at is not null as retired,
    daily_charge_paid_till::date, owner_id from cards";

#[tokio::test]
async fn new_card_gets_exactly_the_old_one_s_balance() {
    let operator = Operator::new().await;
    let before = operator.unpaid_balances().await;
    operator.sell("1111111001").await;
    operator
        .server
        .execute(
            "update cards set balance = balance - 3.000000000000007, callerid = '777', first_use = '2026-11-03', name = 'Anna',
                 language = 'lt', user_id = 2, daily_charge_paid_till = '2026-11-04' where id = 2;
             update payments set balance_change = -3.000000000000007;
             update cards set owner_id = 3 where id = 6",
        )
        .await;
    let reissue = ["card", "reissue", "1111111001", "--reason", "scratched"];
    assert_eq!(
        operator.run_ok(&reissue),
        "The card 1111111001 is replaced by the card 0000000042, with the balance 7.084033613445393.\n\
         Its PIN: `mortise card show 0000000042 --show-pin`.\n"
    );
    operator
        .server
        .assert_rows(
            &format!("{CARD_COLUMNS} where id in (2, 6) order by id"),
            &[
                "1111111001|0.000000000000000|0|∅|2026-11-03|Anna|lt|2|true|2026-11-04|0",
                "0000000042|7.084033613445393|1|777|2026-11-03|Anna|lt|2|false|2026-11-04|0",
            ],
        )
        .await;
    operator
        .server
        .assert_rows(
            "select kind, amount, tax, user_id, replaces_card, balance_change, card from payments where kind = 'reissue'",
            &["reissue|0.000000000000000|0.000000000000000|6|2|-10.084033613445400|1"],
        )
        .await;
    operator
        .server
        .assert_rows(
            "select user_id, data, data2, data3 from actions where action = 'card_payment_created' order by id desc limit 1",
            &["0|6|0.0|USD"],
        )
        .await;
    ledger::assert_holds(&operator.server, &before).await;
    let replaced = "select target_id, after ->> 'replaced_by', after ->> 'replaces', after ->> 'reason' from change_log order by id";
    operator.server.assert_rows(replaced, &["2|0000000042|∅|scratched", "6|∅|1111111001|scratched"]).await;

    // Again: the same card, and nothing is written.
    let again = operator.run_ok(&reissue);
    assert!(again.starts_with("The card 1111111001 was replaced before by the card 0000000042, with"), "{again}");
    operator
        .server
        .assert_rows("select (select count(*) from payments), (select count(*) from change_log)", &["2|2"])
        .await;
    let to_other = [&reissue[..], &["--to", "1111111002"]].concat();
    operator.assert_error(&to_other, 1, "the card 1111111001 was replaced by the card 0000000042");
    let old = operator.run_json(&["card", "show", "1111111001"]);
    assert!(
        old["verdict"].as_str().unwrap().starts_with("retired because it was replaced by the card 0000000042"),
        "{old}"
    );
    let new = operator.run_json(&["card", "show", "0000000042"]);
    assert!(new["verdict"].as_str().unwrap().contains("to replace the card 1111111001; first used"), "{new}");
}

#[tokio::test]
async fn given_card_must_be_free_and_of_the_group() {
    let operator = Operator::new().await;
    operator.sell("1111111001").await;
    operator.sell("1111111002").await;
    let to = |number| ["card", "reissue", "1111111001", "--reason", "x", "--to", number];
    operator.assert_error(&to("1111111002"), 1, "the card 1111111002 is sold");
    operator.assert_error(&to("900001"), 1, "the card 900001 is of another card group, 9");
    operator.assert_error(&to("1111111001"), 1, "the card 1111111001 is sold");
    operator.assert_error(&to("4711"), 3, "no card has the number 4711");
    operator.server.execute("update cards set withheld = 'assigned' where id = 6").await;
    operator.assert_error(&to("0000000042"), 1, "the card 0000000042 is assigned");
    let output = operator.run_ok(&[&to("1111111003")[..], &["--show-pin"]].concat());
    assert!(output.ends_with("Its PIN is 1003.\n"), "{output}");
    operator.server.assert_rows("select user_id from payments where kind = 'reissue'", &["1"]).await;
    // No free card is left.
    let next = ["card", "reissue", "1111111002", "--reason", "x"];
    operator.assert_error(&next, 1, "the card group 6 has no free card");
    operator.server.assert_rows("select sold, retired_at is null as kept from cards where id = 3", &["1|true"]).await;
}

#[tokio::test]
async fn only_a_sold_card_is_replaced() {
    let operator = Operator::new().await;
    let reissue = |number| ["card", "reissue", number, "--reason", "x"];
    operator.assert_error(&reissue("1111111001"), 1, "the card 1111111001 is free: only a sold card can be replaced");
    operator.sell("1111111001").await;
    operator.run_ok(&["card", "void", "1111111001", "--reason", "x"]);
    operator.assert_error(&reissue("1111111001"), 1, "the card 1111111001 is retired");
    operator.server.assert_rows("select count(*) from payments where kind = 'reissue'", &["0"]).await;
    // A stolen card is blocked, then replaced.
    operator.sell("1111111002").await;
    operator.run_ok(&["card", "block", "1111111002"]);
    operator.run_ok(&reissue("1111111002"));
    operator.server.assert_rows("select withheld from cards where id = 6", &["∅"]).await;
}

#[tokio::test]
async fn voucher_of_the_new_card_is_redeemed() {
    let operator = Operator::new().await;
    let sold = operator.server.post_signed("card_from_group_sell", "u=admin&id=9&number=900002", "9").await;
    assert_eq!(sold.element_texts("number"), ["900002"]);
    operator.run_ok(&["card", "reissue", "900002", "--reason", "x"]);
    operator.server.assert_rows("select use_date is not null as used from vouchers where id = 1", &["true"]).await;
    let action = "select target_id, data, data2 from actions where action = 'Disable_Voucher_when_Card_is_used'";
    operator.server.assert_rows(action, &["1|900001|9"]).await;
    // A void does not undo it.
    operator.run_ok(&["card", "void", "900001", "--reason", "x"]);
    operator.server.assert_rows("select use_date is not null as used from vouchers where id = 1", &["true"]).await;
}

/// A void of a card that replaces another one refunds the sale of the first.
#[tokio::test]
async fn void_of_a_replacing_card_refunds_the_first_sale() {
    let operator = Operator::new().await;
    let before = operator.unpaid_balances().await;
    operator.sell("1111111001").await;
    operator.run_ok(&["card", "reissue", "1111111001", "--reason", "x", "--to", "1111111002"]);
    operator.run_ok(&["card", "reissue", "1111111002", "--reason", "x", "--to", "1111111003"]);
    let void = |number| ["card", "void", number, "--reason", "x"];
    operator.assert_error(&void("1111111001"), 1, "was replaced by the card 1111111002: void that one");
    operator.run_ok(&void("1111111003"));
    operator
        .server
        .assert_rows(
            "select user_id, reverses, amount, balance_change from payments where kind = 'refund'",
            &["2|1|-10.084033613445400|-10.084033613445400"],
        )
        .await;
    operator.server.assert_rows("select balance from cards where id = 1", &["0.000000000000000"]).await;
    ledger::assert_holds(&operator.server, &before).await;
}

/// The new card may have a caller id from MOR.
#[tokio::test]
async fn new_card_loses_its_own_caller_id() {
    let operator = Operator::new().await;
    operator.sell("1111111001").await;
    operator.server.execute("update cards set callerid = '888' where id = 6").await;
    operator.run_ok(&["card", "reissue", "1111111001", "--reason", "x"]);
    operator.server.assert_rows("select sold, callerid from cards where id = 6", &["1|∅"]).await;
}

/// Cards of two owners can have the same number. That of the group is meant.
#[tokio::test]
async fn given_number_is_looked_up_in_the_group() {
    let operator = Operator::new().await;
    operator.sell("1111111001").await;
    operator
        .server
        .execute("update cards set number = '1111111002', owner_id = 3, shares_number = true where id = 12")
        .await;
    operator.run_ok(&["card", "reissue", "1111111001", "--reason", "x", "--to", "1111111002"]);
    operator.server.assert_rows("select user_id from payments where kind = 'reissue'", &["3"]).await;
}

/// An e-mail that waits would have sent the PIN of a card that is retired.
#[tokio::test]
async fn old_card_is_taken_out_of_mails_that_wait() {
    let operator = Operator::new().await;
    operator.sell("1111111001").await;
    operator.sell("1111111002").await;
    operator
        .server
        .execute(
            "update payments set date_added = '2026-11-03 10:00:00';
             insert into email_outbox (owner_id, user_id, address, message_id, card_ids, balances, currency, created_at, sent_at) values
                 (0, 0, 'a@x.test', 'm1', '{3,2}', '{3,2}', 'USD', '2026-11-03 10:00:00', null),
                 (0, 0, 'a@x.test', 'm2', '{2}', '{2}', 'USD', '2026-11-03 10:00:00', null),
                 (0, 0, 'a@x.test', 'm3', '{2}', '{2}', 'USD', '2026-11-03 10:00:00', now())",
        )
        .await;
    // Without mail settings, the server sends none of them.
    let output = operator.run_ok(&["card", "reissue", "1111111001", "--reason", "x"]);
    assert!(output.contains("\nThe old card was taken out of e-mails that were not sent: 2, 1.\n"), "{output}");
    operator
        .server
        .assert_rows("select id, card_ids, balances from email_outbox order by id", &["1|[3]|[3]", "3|[2]|[2]"])
        .await;
    let mails = "select after -> 'mails' as mails from change_log where after ->> 'replaced_by' is not null";
    operator.server.assert_rows(mails, &["[2, 1]"]).await;
    let again = operator.run_json(&["card", "reissue", "1111111002", "--reason", "x"]);
    assert_eq!(again["mails"], serde_json::json!([1]));
    assert_eq!(operator.run_json(&["card", "reissue", "1111111002", "--reason", "x"])["mails"], serde_json::json!([]));
}
