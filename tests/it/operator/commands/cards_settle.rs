//! `mortise cards list --quarantined` and `mortise card settle`.

use super::Operator;
use crate::harness::ledger;

/// Card 2 is free, card 4 is sold, card 3 was used but is not sold.
const QUARANTINE: &str = "
    update cards set quarantined_at = '2026-11-01' where id in (2, 3, 4);
    update cards set first_use = '2026-10-01' where id = 3;
    update cardgroups set price = 10.0840336134454 where id = 6;
    insert into import_runs (id, started_at, source, server_version, time_zone, snapshot_position, tables)
    values (1, now(), '', '', '', '', '{}');
    insert into import_findings (run_id, rule, \"table\", id, decision) values
        (1, 'duplicate_pin', 'cards', 4, 'quarantine'), (1, 'used_unsold', 'cards', 3, 'quarantine')";
const CARDS: &str = "select id, sold, quarantined_at is not null as quarantined, retired_at is not null as retired, balance <> 0 as has_balance
    from cards where id in (2, 3, 4) order by id";

fn settle<'a>(id: &'a str, state: &'a str) -> [&'a str; 7] {
    ["card", "settle", id, "--as", state, "--reason", "checked"]
}

#[tokio::test]
async fn quarantined_cards_are_listed_with_their_money() {
    let operator = Operator::new().await;
    assert_eq!(operator.run_json(&["cards", "list", "--quarantined"]), serde_json::json!([]));
    operator.server.execute(QUARANTINE).await;
    assert_eq!(
        operator.run_ok(&["cards", "list", "--quarantined"]),
        "ID  NUMBER      GROUP  BALANCE           SOLD  FIRST USE (UTC)      WHY\n\
         4   1111111000  6      10.0840336134454  yes                        duplicate_pin\n\
         2   1111111001  6      10.0840336134454\n\
         3   1111111002  6      10.0840336134454        2026-10-01 00:00:00  used_unsold\n"
    );
    operator.assert_error(&["cards", "list"], 2, "--quarantined");
}

#[tokio::test]
async fn decisions_are_carried_out_once() {
    let operator = Operator::new().await;
    operator.server.execute(QUARANTINE).await;
    let before = operator.unpaid_balances().await;
    assert_eq!(operator.run_ok(&settle("4", "sold")), "The card 4 is settled as sold.\n");
    assert_eq!(operator.run_ok(&settle("2", "free")), "The card 2 is settled as free.\n");
    operator.assert_error(
        &settle("3", "free"),
        1,
        "the card 3 looks used: settle it as sold or retired, or say --used",
    );
    assert_eq!(operator.run_ok(&settle("3", "retired")), "The card 3 is settled as retired.\n");
    operator.server.assert_rows(CARDS, &["2|0|false|false|true", "3|0|true|true|false", "4|1|false|false|true"]).await;
    operator
        .server
        .assert_rows(
            "select kind, amount, user_id, card, balance_change from payments",
            &["write_off|0.000000000000000|3|1|-10.084033613445400"],
        )
        .await;
    operator.server.assert_rows("select card_id from card_stock where card_id in (2, 3, 4)", &["2"]).await;
    ledger::assert_holds(&operator.server, &before).await;
    assert_eq!(operator.run_json(&["cards", "list", "--quarantined"]), serde_json::json!([]));

    // Again.
    assert_eq!(operator.run_ok(&settle("3", "retired")), "The card 3 was settled as retired.\n");
    operator.assert_error(&settle("3", "sold"), 1, "the card 3 was settled as retired");
    operator.assert_error(&settle("1", "sold"), 1, "the card 1 is not quarantined");
    operator.assert_error(&settle("999", "sold"), 3, "there is no card with the id 999");
    operator.assert_error(&settle("2", "gone"), 2, "invalid value 'gone'");
    operator.server.assert_rows("select count(*) from change_log", &["3"]).await;
}

#[tokio::test]
async fn used_card_comes_into_stock_if_so_chosen() {
    let operator = Operator::new().await;
    operator.server.execute(QUARANTINE).await;
    operator.run_ok(&[&settle("3", "free")[..], &["--used"]].concat());
    operator.server.assert_rows("select card_id from card_stock where card_id = 3", &["3"]).await;
    // Not if a sale was paid: such a card is never sold again.
    operator.server.execute("insert into payments (kind, user_id, card) values ('sale', 2, 1)").await;
    let free = [&settle("2", "free")[..], &["--used"]].concat();
    operator.assert_error(&free, 1, "the card has a payment of a sale: settle it as sold");
    operator.server.assert_rows("select quarantined_at is not null as kept from cards where id = 2", &["true"]).await;
}

/// A retired card keeps its PIN beside the card that has the same.
#[tokio::test]
async fn duplicate_is_refused_or_retired() {
    let operator = Operator::new().await;
    operator.server.execute(QUARANTINE).await;
    operator.server.execute("update cards set pin = '1003' where id = 2").await;
    operator.assert_error(&settle("2", "free"), 1, "another card in use has the same PIN: settle the card as retired");
    operator.server.execute("update cards set pin = '1001', number = '1111111003' where id = 2").await;
    operator.assert_error(&settle("2", "sold"), 1, "another card in use has the same number");
    operator.run_ok(&settle("2", "retired"));
    operator.server.assert_rows("select pin, number from cards where id = 2", &["1001|1111111003"]).await;
}

/// A card of before the import has null in MOR's counters. A caller id and the import's finding show a use.
#[tokio::test]
async fn every_sign_of_use_keeps_a_card_out_of_stock() {
    let operator = Operator::new().await;
    operator.server.execute(QUARANTINE).await;
    operator
        .server
        .execute("update cards set first_use = null, call_count = null, frozen_balance = null where id in (2, 3)")
        .await;
    let refusal = |id: &str| format!("the card {id} looks used: settle it as sold or retired, or say --used");
    // Only the finding used_unsold is left.
    operator.assert_error(&settle("3", "free"), 1, &refusal("3"));
    for (used, unused) in [
        ("first_use = '2014-05-01'", "first_use = null"),
        ("call_count = 1", "call_count = null"),
        ("frozen_balance = 0.000000000000001", "frozen_balance = 0"),
        ("callerid = '999'", "callerid = '999'"),
    ] {
        operator.server.execute(&format!("update cards set {used} where id = 2")).await;
        operator.assert_error(&settle("2", "free"), 1, &refusal("2"));
        operator.server.execute(&format!("update cards set {unused} where id = 2")).await;
    }
    operator.run_ok(&[&settle("2", "free")[..], &["--used"]].concat());
    operator.server.assert_rows("select callerid from cards where id = 2", &["∅"]).await;
}

#[tokio::test]
async fn unused_card_without_counters_or_price_is_free() {
    let operator = Operator::new().await;
    operator.server.execute(QUARANTINE).await;
    operator
        .server
        .execute(
            "update cardgroups set price = null where id = 6;
             update cards set call_count = null, frozen_balance = null, balance = 0 where id = 2",
        )
        .await;
    assert_eq!(operator.run_ok(&settle("2", "free")), "The card 2 is settled as free.\n");
}

/// The import can quarantine a card that is deleted or reserved too.
#[tokio::test]
async fn deleted_and_reserved_cards_become_usable_or_free() {
    let operator = Operator::new().await;
    operator.server.execute(QUARANTINE).await;
    operator
        .server
        .execute(
            "update cards set hidden = 1 where id in (3, 4);
             update cards set withheld = 'reserved', user_id = 2 where id in (2, 4)",
        )
        .await;
    let list = operator.run_ok(&["cards", "list", "--quarantined"]);
    assert!(list.contains(" duplicate_pin, deleted in MOR, reserved\n"), "{list}");
    operator.run_ok(&settle("4", "sold"));
    operator.run_ok(&settle("2", "free"));
    operator.run_ok(&[&settle("3", "free")[..], &["--used"]].concat());
    operator
        .server
        .assert_rows(
            "select c.id, card_state(c), s.card_id is not null as in_stock
             from cards c left join card_stock s on s.card_id = c.id where c.id in (2, 3, 4) order by c.id",
            &["2|free|true", "3|free|true", "4|sold|false"],
        )
        .await;
}

/// A reserved card that MOR cannot sell does not come into stock.
#[tokio::test]
async fn card_that_cannot_be_sold_is_retired() {
    let operator = Operator::new().await;
    operator.server.execute(QUARANTINE).await;
    operator.server.execute("create table intact as select * from cards where id = 2").await;
    for change in ["pin = null", "pin = ''", "pin = '12345678901'", "pin = '    '", "number = '1 '", "min_balance = -1"]
    {
        operator.server.execute(&format!("update cards set withheld = 'reserved', {change} where id = 2")).await;
        let expected = "the length of the number or the PIN is not that of the card group, or the minimal balance is below 0: \
            settle the card as retired";
        operator.assert_error(&settle("2", "free"), 1, expected);
        let restore = "update cards c set number = i.number, pin = i.pin, min_balance = i.min_balance
            from intact i where i.id = c.id";
        operator.server.execute(restore).await;
    }
    operator.run_ok(&settle("2", "retired"));
}
