//! `mortise cards` and `mortise group`.

use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt;

use super::{Operator, command, run_command};
use crate::harness::with_timeout;

const NEW: &str = "select number from cards where id > 100 order by id";

#[tokio::test]
async fn generated_numbers_follow_the_highest_number() {
    let operator = Operator::new().await;
    operator.server.execute("update cardgroups set price = 8.4, pin_length = 6 where id = 6").await;
    let output = operator.run_ok(&["cards", "generate", "--group", "6", "--quantity", "3", "--batch-number", "B1"]);
    assert_eq!(output, "3 cards were created in group 6, with the numbers 1111111004 to 1111111006.\n");
    let columns =
        "select balance, length(pin), owner_id, user_id, batch_number, language, sold from cards where id > 100";
    operator.server.assert_rows(columns, &["8.400000000000000|6|0|-1|B1|en|0"; 3]).await;
    operator
        .assert_changes(&["card 1111111004 - 1111111006 6 -> {\"batch_number\": \"B1\", \"cards_created\": 3}"])
        .await;
    operator
        .server
        .assert_rows("select count(*) from card_stock where cardgroup_id = 6 and number >= '1111111004'", &["3"])
        .await;
    // The server can sell the new cards.
    let sold = operator.server.post_signed("card_from_group_sell", "u=admin&id=6&number=1111111005", "6").await;
    assert_eq!(sold.element_texts("number"), ["1111111005"], "{}", sold.body);
}

#[tokio::test]
async fn numbers_in_use_are_skipped() {
    let operator = Operator::new().await;
    let output = operator.run_json(&[
        "cards",
        "generate",
        "--group",
        "6",
        "--quantity",
        "4",
        "--from",
        "1111110999",
        "--balance",
        "5",
    ]);
    assert_eq!((output["created"].as_u64(), output["first"].as_str()), (Some(4), Some("1111111004")));
    operator.server.assert_rows(NEW, &["1111111004", "1111111005", "1111111006", "1111111007"]).await;
    operator.server.assert_rows("select distinct balance from cards where id > 100", &["5.000000000000000"]).await;
}

#[tokio::test]
async fn generation_is_all_or_nothing() {
    let operator = Operator::new().await;
    let generate = |arguments: &[&'static str]| [&["cards", "generate", "--group"], arguments].concat();
    operator.assert_error(&generate(&["11", "--quantity", "3", "--from", "999998"]), 1, "no more numbers of 6 digits");
    operator.assert_error(&generate(&["6", "--quantity", "2000"]), 1, "a fifth of all PINs of 4 digits");
    operator.assert_error(&generate(&["8", "--quantity", "1"]), 3, "there is no card group 8");
    operator.assert_error(&generate(&["6", "--quantity", "0"]), 2, "--quantity");
    let long: &'static str = "b".repeat(256).leak();
    let message = "it has more than 255 characters";
    operator.assert_error(&generate(&["6", "--quantity", "1", "--batch-number", long]), 2, message);
    operator.assert_error(
        &generate(&["6", "--quantity", "1", "--from", "12"]),
        2,
        "numbers of this group have 10 digits",
    );
    operator.assert_error(
        &generate(&["6", "--quantity", "1", "--balance=-1"]),
        2,
        "expected an amount of at least 0, such as 8.40",
    );
    operator.server.assert_rows(NEW, &[]).await;
    operator.server.assert_rows("select count(*) from change_log", &["0"]).await;
    // The last numbers of that length can be used.
    operator.run_ok(&generate(&["11", "--quantity", "2", "--from", "999998"]));
    operator.server.assert_rows(NEW, &["999998", "999999"]).await;
    // The numbers of an empty group start without leading zeros; another group has 100001.
    operator.server.execute("delete from cards where id > 100").await;
    operator.run_ok(&generate(&["11", "--quantity", "2"]));
    operator.server.assert_rows(NEW, &["100000", "100002"]).await;
}

#[tokio::test]
async fn cards_are_exported_as_csv() {
    let operator = Operator::new().await;
    operator.server.execute("update cards set name = 'a \"b\", c', batch_number = 'B1' where id = 2").await;
    let header =
        "number,pin,balance,sold,batch_number,language,name,callerid,id,serial,first_use,daily_charge_paid_till\n";
    let csv = operator.run_ok(&["cards", "export", "--group", "6"]);
    assert_eq!(
        csv,
        format!(
            "{header}0000000042,0042,10.0840336134454,0,,en,,,6,,,\n\
             1111111000,1000,10.0840336134454,1,,en,,3701111,4,,,\n\
             1111111001,1001,10.0840336134454,0,B1,en,\"a \"\"b\"\", c\",,2,,,\n\
             1111111002,1002,10.0840336134454,0,,en,,,3,,,\n\
             1111111003,1003,10.0840336134454,0,,en,,,1,,,\n"
        )
    );
    operator.assert_changes(&["card_group 6 ten dollars -> {\"free\": false, \"cards\": \"exported\"}"]).await;
    assert!(!operator.run_ok(&["cards", "export", "--group", "6", "--free"]).contains("1111111000"));
    let batch = operator.run_ok(&["cards", "export", "--group", "6", "--batch-number", "B1"]);
    assert_eq!(batch.lines().count(), 2, "{batch}");
    assert_eq!(operator.run_ok(&["cards", "export", "--group", "11"]), header);
    operator.assert_error(&["cards", "export", "--group", "99"], 3, "there is no card group 99");
}

#[tokio::test]
async fn exported_file_is_private_and_not_overwritten() {
    let operator = Operator::new().await;
    operator.run_ok(&["cards", "generate", "--group", "11", "--quantity", "500"]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cards.csv");
    let file = path.to_str().unwrap();
    let export = ["cards", "export", "--group", "11", "--output", file];
    let output = operator.run_ok(&export);
    assert_eq!(output, format!("500 cards were written to {file}.\n"));
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(&path).unwrap();
    let pins: HashSet<&str> = text.lines().skip(1).map(|line| line.split(',').nth(1).unwrap()).collect();
    assert_eq!(pins.len(), 500);
    operator.assert_error(&export, 1, "File exists");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    let other = folder.path().join("other.csv");
    operator.assert_error(
        &["cards", "export", "--group", "99", "--output", other.to_str().unwrap()],
        3,
        "no card group 99",
    );
    assert!(!other.exists());
}

#[tokio::test]
async fn killed_export_leaves_no_output_file() {
    let operator = Operator::new().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cards.csv");
    let mut lock = operator.server.pool.begin().await.unwrap();
    sqlx::query("lock table cards in access exclusive mode").execute(&mut *lock).await.unwrap();
    let mut export = command(&["cards", "export", "--group", "6", "--output", path.to_str().unwrap()])
        .env("DATABASE_URL", &operator.url)
        .spawn()
        .unwrap();
    operator.server.wait_for_lock_waiter().await;
    export.kill().unwrap();
    export.wait().unwrap();
    assert!(!path.exists());
}

#[tokio::test]
async fn card_groups_are_listed_with_their_stock() {
    let operator = Operator::new().await;
    let listed = operator.run_ok(&["group", "list"]);
    let columns =
        |name: &str| listed.lines().find(|line| line.contains(name)).unwrap().split_whitespace().collect::<Vec<_>>();
    assert_eq!(columns("ten dollars"), ["6", "ten", "dollars", "admin", "0.0", "10", "4", "4", "1"]);
    assert_eq!(columns("hidden"), ["8", "hidden", "admin", "0.0", "6", "4", "1", "0", "yes"]);
    let groups = operator.run_json(&["group", "list"]);
    assert_eq!((groups[6]["owner"].as_str(), groups[6]["free"].as_i64()), (Some("reseller"), Some(2)));
}

/// A closed pipe, as in `mortise cards export … | head`, is no error.
#[tokio::test]
async fn closed_pipe_is_no_error() {
    let operator = Operator::new().await;
    operator.run_ok(&["cards", "generate", "--group", "11", "--quantity", "1900"]);
    for arguments in [&["cards", "export", "--group", "11"][..], &["group", "list"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = super::command(arguments);
        let output = command.env("DATABASE_URL", &operator.url).stdout(writer).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    }
}

/// A missing stock row, those of a sold card, of a paid card and of a card that does not exist, and one of the wrong
/// group.
const DAMAGE: &str = "
    delete from card_stock where card_id in (1, 7);
    insert into payments (kind, user_id, amount) values ('sale', 2, 1);
    insert into card_stock values (6, '1111111000', 4), (6, '999', 999), (9, '700001', 7)";

#[tokio::test]
async fn stock_is_checked_and_repaired() {
    let operator = Operator::new().await;
    assert_eq!(operator.run_ok(&["cards", "check"]), "The stock matches the cards.\n");
    operator.server.execute(DAMAGE).await;
    let output = operator.run(&["cards", "check"]);
    let differences = "card 1: can be sold, but is not in stock\n\
                       card 2: is in stock, but cannot be sold\n\
                       card 4: is in stock, but cannot be sold\n";
    assert!(output.code == 1 && output.stdout.starts_with(differences), "{output:?}");
    let end = "Differences: 6. To repair them, run `mortise cards check --repair`.\n";
    assert!(output.stdout.ends_with(end), "{output:?}");
    operator.server.assert_rows("select count(*) from card_stock where card_id in (1, 999)", &["1"]).await;

    let output = operator.run_ok(&["cards", "check", "--repair"]);
    assert!(output.starts_with(differences) && output.ends_with("Repaired: 6.\n"), "{output}");
    assert_eq!(operator.run_ok(&["cards", "check"]), "The stock matches the cards.\n");
    let stock = "select cardgroup_id, card_id from card_stock where card_id in (1, 2, 4, 7, 999) order by 2";
    operator.server.assert_rows(stock, &["6|1", "7|7"]).await;
    operator
        .assert_changes(&[
            "card 1 1111111003 -> {\"in_stock\": true}",
            "card 2 1111111001 -> {\"in_stock\": false}",
            "card 4 1111111000 -> {\"in_stock\": false}",
            "card 7 700001 -> {\"in_stock\": true}",
            "card 999  -> {\"in_stock\": false}",
        ])
        .await;
}

/// The repair waits for a sale that has locked the card, and counts what the sale has changed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repair_waits_for_a_running_sale() {
    let operator = Operator::new().await;
    operator.server.execute("delete from card_stock where card_id = 1").await;
    let mut sale = operator.server.pool.begin().await.unwrap();
    sqlx::raw_sql("update cards set sold = 1 where id = 1; insert into payments (kind, user_id) values ('sale', 1)")
        .execute(&mut *sale)
        .await
        .unwrap();
    let mut repair = command(&["cards", "check", "--repair"]);
    repair.env("DATABASE_URL", &operator.url);
    let repair = tokio::task::spawn_blocking(|| run_command(repair, ""));
    with_timeout("the repair to wait", operator.server.wait_for_lock_waiter()).await;
    sale.commit().await.unwrap();
    let output = repair.await.unwrap();
    assert!(output.code == 0 && output.stdout.ends_with("Repaired: 1.\n"), "{output:?}");
    assert_eq!(operator.run_ok(&["cards", "check"]), "The stock matches the cards.\n");
    operator.server.assert_rows("select count(*) from card_stock where card_id = 1", &["0"]).await;
}
