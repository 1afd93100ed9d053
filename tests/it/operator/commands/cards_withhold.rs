//! `mortise card block`, `mortise cards block`, `assign` and `release`, and the opposite ones.

use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncReadExt;

use super::{Operator, command, run_command};
use crate::harness::with_timeout;

const STOCK: &str = "select card_id from card_stock where cardgroup_id = 6 order by card_id";
const WITHHELD: &str =
    "select id, withheld, user_id from cards where withheld is not null or user_id <> -1 order by id";

#[tokio::test]
async fn card_is_blocked_and_unblocked() {
    let operator = Operator::new().await;
    assert_eq!(operator.run_ok(&["card", "block", "1111111001"]), "The card 1111111001 is blocked.\n");
    operator.assert_changes(&["card 2 1111111001 {\"withheld\": null} -> {\"withheld\": \"blocked\"}"]).await;
    operator.server.assert_rows(STOCK, &["1", "3", "6"]).await;
    assert_eq!(operator.run_ok(&["card", "block", "1111111001"]), "The card 1111111001 was blocked before.\n");
    assert_eq!(operator.run_ok(&["card", "unblock", "1111111001"]), "The card 1111111001 is unblocked.\n");
    assert_eq!(operator.run_ok(&["card", "unblock", "1111111001"]), "The card 1111111001 was not blocked.\n");
    operator.server.assert_rows(STOCK, &["1", "2", "3", "6"]).await;
    operator.server.assert_rows("select count(*) from change_log", &["2"]).await;
    operator.assert_error(&["card", "block", "1111110999"], 1, "the card is deleted, retired or quarantined");
}

/// A signal ends a command that waits for an answer.
#[tokio::test]
async fn question_is_interrupted_by_a_signal() {
    let operator = Operator::new().await;
    let mut block = tokio::process::Command::from(command(&["cards", "block", "--group", "6"]));
    block.env("DATABASE_URL", &operator.url).kill_on_drop(true).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = block.spawn().unwrap();
    let _open = child.stdin.take();
    let mut stderr = child.stderr.take().unwrap();
    let mut text = String::new();
    while !text.contains("[y/N] ") {
        text.push(char::from(with_timeout("the question", stderr.read_u8()).await.unwrap()));
    }
    // The interrupt of Ctrl-C is received in the same way, unless the tests run in the background of a shell script.
    let pid = Pid::from_raw(child.id().unwrap().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    let status = with_timeout("the end of the command", child.wait()).await.unwrap();
    with_timeout("the message", stderr.read_to_string(&mut text)).await.unwrap();
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(text.contains("interrupted"), "{text}");
    operator.server.assert_rows("select count(*) from cards where withheld is not null", &["0"]).await;
}

/// A stolen batch: the operator sees the counts first.
#[tokio::test]
async fn batch_is_blocked_after_a_question() {
    let operator = Operator::new().await;
    operator
        .server
        .execute(
            "update cards set batch_number = 'B1' where id in (1, 2, 4, 5, 7);
             update cards set batch_number = 'B2' where id = 3;
             update cards set withheld = 'assigned', user_id = 2 where id = 2",
        )
        .await;
    let block = ["cards", "block", "--batch", "B1"];
    let refused = operator.run_with_input("n\n", &block);
    assert!(refused.code == 1 && refused.stderr.contains("nothing was changed"), "{refused:?}");
    assert!(refused.stderr.starts_with("Block batch B1: 1 assigned, 2 free, 1 sold? [y/N] "), "{refused:?}");
    assert_eq!(operator.run(&block).code, 1);
    operator.server.assert_rows("select count(*) from cards where withheld = 'blocked'", &["0"]).await;

    let blocked = operator.run_with_input("y\n", &block);
    assert_eq!(
        blocked.stdout,
        "Cards blocked: 4.\n\
         group 6 ten dollars: 3, from 1111111000 to 1111111003\n\
         group 7 euro group: 1, from 700001 to 700001\n"
    );
    operator.server.assert_rows(STOCK, &["3", "6"]).await;
    operator
        .assert_changes(&[
            "card 1111111000 - 1111111003 6 -> {\"cards\": 3, \"withheld\": \"blocked\", \"batch_number\": \"B1\"}",
            "card 700001 - 700001 7 -> {\"cards\": 1, \"withheld\": \"blocked\", \"batch_number\": \"B1\"}",
        ])
        .await;
    // A script gets the counts too.
    let output = operator.run(&[&block[..], &["--yes"]].concat());
    assert_eq!(output.stderr, "Block batch B1: 4 blocked? yes\n");
    let again = operator.run_json(&[&block[..], &["--yes"]].concat());
    assert_eq!(again["changed"].as_array().unwrap().len(), 0, "{again}");
    operator.server.assert_rows("select count(*) from change_log", &["2"]).await;

    // The assigned card stays out of stock.
    operator.run_ok(&["cards", "unblock", "--group", "6", "--yes"]);
    operator.server.assert_rows(WITHHELD, &["2|assigned|2", "7|blocked|-1"]).await;
    operator.server.assert_rows(STOCK, &["1", "3", "6"]).await;
    // The change is found for a card of the range.
    let rows = operator.run_json(&["audit", "--card", "1111111002"]);
    assert_eq!(rows.as_array().unwrap().len(), 2, "{rows}");
}

/// A range of the change log has numbers of one length: so each card is found in it.
#[tokio::test]
async fn numbers_of_each_length_get_a_row_of_the_change_log() {
    let operator = Operator::new().await;
    operator.server.execute("update cards set number = '111' where id = 3").await;
    let output = operator.run_ok(&["cards", "block", "--group", "6", "--yes"]);
    assert!(output.contains("\ngroup 6 ten dollars: 1, from 111 to 111\n"), "{output}");
    let rows = operator.run_json(&["audit", "--card", "111"]);
    assert_eq!(rows.as_array().unwrap().len(), 1, "{rows}");
    let rows = operator.run_json(&["audit", "--card", "1111111001"]);
    assert_eq!(rows.as_array().unwrap().len(), 1, "{rows}");
}

#[tokio::test]
async fn wrong_selections_are_refused() {
    let operator = Operator::new().await;
    for (arguments, code, message) in [
        (&["--batch", "unknown"][..], 3, "there is no card in batch unknown"),
        (&["--batch", ""], 3, "there is no card in batch"),
        (&["--from", "1", "--till", "22"], 2, "1 to 22 is no range of numbers"),
        (&["--from", "3", "--till", "2"], 2, "the first is greater than the last"),
        (&["--from", "22", "--till", "11"], 2, "no range of numbers"),
        (&["--from", "1111111000"], 2, "--till"),
        (&[], 2, "name a batch, a card group, or a range of numbers"),
    ] {
        operator.assert_error(&[&["cards", "block", "--yes"], arguments].concat(), code, message);
    }
    operator.server.assert_rows("select count(*) from cards where withheld is not null", &["0"]).await;
}

#[tokio::test]
async fn distributor_gets_free_cards() {
    let operator = Operator::new().await;
    let numbers = ["--from", "1111111000", "--till", "1111111002"];
    let assign = [&["cards", "assign", "--distributor", "user", "--yes"], &numbers[..]].concat();
    let output = operator.run_ok(&assign);
    assert_eq!(output, "Cards assigned to user: 2.\ngroup 6 ten dollars: 2, from 1111111001 to 1111111002\n");
    operator.server.assert_rows(WITHHELD, &["2|assigned|2", "3|assigned|2"]).await;
    operator.server.assert_rows(STOCK, &["1", "6"]).await;
    operator
        .assert_changes(&[
            "card 1111111001 - 1111111002 6 -> {\"cards\": 2, \"withheld\": \"assigned\", \"distributor\": 2}",
        ])
        .await;
    assert_eq!(operator.run_ok(&assign), "Cards assigned to user: 0.\n");
    operator.server.assert_rows("select count(*) from change_log", &["1"]).await;

    let keep = ["cards", "assign", "--group", "6", "--distributor", "user", "--keep-in-stock", "--yes"];
    assert!(operator.run_ok(&keep).starts_with("Cards assigned to user: 2.\n"));
    assert!(operator.run_ok(&keep).starts_with("Cards assigned to user: 0.\n"));
    operator.server.assert_rows(STOCK, &["1", "6"]).await;
    operator.server.assert_rows(WITHHELD, &["1|∅|2", "2|assigned|2", "3|assigned|2", "6|∅|2"]).await;
    // A sold card keeps its distributor.
    operator.sell("1111111003").await;
    let release = ["cards", "release", "--group", "6", "--yes"];
    let other = operator.run_ok(&[&release[..], &["--distributor", "customer"]].concat());
    assert_eq!(other, "Cards released: 0.\n");
    assert!(operator.run_ok(&release).starts_with("Cards released: 3.\n"));
    operator.server.assert_rows(WITHHELD, &["1|∅|2"]).await;
    operator.server.assert_rows(STOCK, &["2", "3", "6"]).await;
}

#[tokio::test]
async fn distributor_must_be_a_simple_user_of_the_owner() {
    let operator = Operator::new().await;
    for distributor in ["reseller", "accountant", "customer", "admin"] {
        let assign = ["cards", "assign", "--group", "6", "--yes", "--distributor", distributor];
        operator.assert_error(&assign, 1, "the distributor must be a user of the type user, of the owner");
    }
    operator.assert_error(&["cards", "assign", "--group", "6", "--distributor", "x"], 3, "there is no user \"x\"");
    operator.run_ok(&["cards", "assign", "--group", "12", "--yes", "--distributor", "customer"]);
    operator.server.assert_rows(WITHHELD, &["12|assigned|11", "13|assigned|11"]).await;
}

/// The change waits for a sale that has locked a card, and leaves out the card that was sold meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn assignment_waits_for_a_running_sale() {
    let operator = Operator::new().await;
    let mut sale = operator.server.pool.begin().await.unwrap();
    sqlx::raw_sql("update cards set sold = 1 where id = 2; insert into payments (kind, user_id) values ('sale', 2)")
        .execute(&mut *sale)
        .await
        .unwrap();
    let mut assign = command(&["cards", "assign", "--group", "6", "--distributor", "user", "--yes"]);
    assign.env("DATABASE_URL", &operator.url);
    let assign = tokio::task::spawn_blocking(|| run_command(assign, ""));
    operator.server.wait_for_lock_waiter().await;
    sale.commit().await.unwrap();
    let output = assign.await.unwrap();
    assert!(output.stdout.starts_with("Cards assigned to user: 3.\n"), "{output:?}");
    operator.server.assert_rows("select withheld from cards where id = 2", &["∅"]).await;
}

/// An assigned card can be used. A used one never comes into stock again.
#[tokio::test]
async fn used_cards_are_not_released() {
    let operator = Operator::new().await;
    let release = ["cards", "release", "--group", "6", "--yes"];
    for change in [
        "update cards set first_use = now() where id = 2",
        "update cards set call_count = 1 where id = 2",
        "update cards set frozen_balance = 1 where id = 2",
        "update cards set callerid = '999' where id = 2",
        "insert into payments (kind, user_id, card) values ('top_up', 2, 1)",
        "insert into actions (action, target_type, target_id) values ('Added to cards balance', 'card', 2)",
    ] {
        operator.run_ok(&["cards", "assign", "--group", "6", "--distributor", "user", "--yes"]);
        operator.server.execute(change).await;
        let output = operator.run_ok(&release);
        assert!(output.starts_with("Cards released: 3.\n"), "{change}: {output}");
        assert!(output.ends_with("\n1 used, not released.\n"), "{change}: {output}");
        operator.server.assert_rows(WITHHELD, &["2|assigned|2"]).await;
        operator.server.assert_rows(STOCK, &["1", "3", "6"]).await;
        operator
            .server
            .execute(
                "update cards set first_use = null, call_count = null, frozen_balance = 0, callerid = null where id = 2;
                 truncate payments, actions",
            )
            .await;
    }
    let output = operator.run_json(&release);
    assert_eq!((&output["used"], &output["changed"][0]["cards"]), (&0.into(), &1.into()));
    operator.server.assert_rows(STOCK, &["1", "2", "3", "6"]).await;
}

/// `calling_card_update` can take the distributor away, and the card stays withheld.
#[tokio::test]
async fn assigned_card_without_a_distributor_is_released() {
    let operator = Operator::new().await;
    operator
        .server
        .execute(
            "update cards set withheld = 'assigned' where id = 2;
             update cards set withheld = 'blocked', unblocked_as = 'assigned' where id = 3",
        )
        .await;
    let output = operator.run_ok(&["cards", "release", "--group", "6", "--yes"]);
    assert!(output.starts_with("Cards released: 2.\n"), "{output}");
    operator.server.assert_rows(WITHHELD, &["3|blocked|-1"]).await;
    operator.run_ok(&["cards", "unblock", "--group", "6", "--yes"]);
    operator.server.assert_rows(STOCK, &["1", "2", "3", "6"]).await;
}

/// The import has reserved a card for its distributor.
#[tokio::test]
async fn reserved_card_of_a_distributor_is_released() {
    let operator = Operator::new().await;
    operator
        .server
        .execute(
            "update cards set withheld = 'reserved', user_id = 2 where id in (1, 2);
             update cards set pin = '12345678901' where id = 1",
        )
        .await;
    operator.run_ok(&["card", "block", "1111111001"]);
    let release = ["cards", "release", "--group", "6", "--distributor", "user", "--yes"];
    // The PIN of the card 1 cannot be sold.
    assert!(operator.run_ok(&release).starts_with("Cards released: 1.\n"));
    operator.server.assert_rows(WITHHELD, &["1|reserved|2", "2|blocked|-1"]).await;
    operator.run_ok(&["card", "unblock", "1111111001"]);
    operator.server.assert_rows(STOCK, &["2", "3", "6"]).await;
}

#[tokio::test]
async fn cards_of_another_distributor_are_not_given() {
    let operator = Operator::new().await;
    operator.server.execute("update users set usertype = 'user' where username = 'accountant'").await;
    let assign = |user, options: &[&'static str]| {
        let arguments = ["cards", "assign", "--group", "6", "--distributor", user, "--yes"];
        operator.run_ok(&[&arguments[..], options].concat())
    };
    assert!(assign("user", &["--keep-in-stock"]).starts_with("Cards assigned to user: 4.\n"));
    assert_eq!(assign("accountant", &[]), "Cards assigned to accountant: 0.\n");
    // The own ones can be withheld too.
    assert!(assign("user", &[]).starts_with("Cards assigned to user: 4.\n"));
}

/// A card that another session has locked for longer than the lock timeout: the command failed, not the database.
#[tokio::test]
async fn lock_timeout_asks_for_another_try() {
    let operator = Operator::new().await;
    let mut lock = operator.server.pool.begin().await.unwrap();
    sqlx::raw_sql("select from cards where id = 2 for update").execute(&mut *lock).await.unwrap();
    let mut block = command(&["card", "block", "1111111001"]);
    block.env("DATABASE_URL", &operator.url).env("MORTISE_DATABASE_ACQUIRE_TIMEOUT_MS", "100");
    let output = tokio::task::spawn_blocking(|| run_command(block, "")).await.unwrap();
    let expected = "another session changes the same data: this change was rolled back, run the command again";
    assert!(output.code == 1 && output.stderr.contains(expected), "{output:?}");
    lock.rollback().await.unwrap();
    operator.run_ok(&["card", "block", "1111111001"]);
}
