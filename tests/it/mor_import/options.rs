//! The options of `mortise import`.

use super::{BASICS, Import, X7_SCHEMA};

/// Rows of the log: before and after a date, without a date, and one that is the only sign that the card 101 was used.
const LOG: &str = "
    insert into actions (id, date, action, target_type, target_id) values
        (1, '2014-05-31 23:59:59', 'card_sell_over_api', 'Card', 101), (2, '2014-06-01 00:00:00', 'test', '', null),
        (3, '0000-00-00 00:00:00', 'test', '', null), (4, '2014-00-00 00:00:00', 'test', '', null),
        (5, '2013-01-01 00:00:00', 'test', '', null)";

#[tokio::test]
async fn history_leaves_out_old_rows_of_the_log() {
    let import = Import::new(LOG).await;
    let output = import.import_ok(&["--history", "2014-06-01"]);
    let expected = "actions: 5 rows in MOR, 2 imported, 0 quarantined, 3 left out";
    assert!(output.stdout.contains(expected), "{output:?}");
    let server = import.server().await;
    // The row without a date has that of the row before.
    server
        .assert_rows("select id, date from actions order by id", &["2|2014-05-31T21:00:00", "3|2014-05-31T21:00:00"])
        .await;
    // All rows tell whether a card was used.
    server.assert_rows("select id from cards where quarantined_at is not null", &["101"]).await;
    server.assert_rows("select nextval('actions_id_seq')", &["6"]).await;
    server.assert_rows("select history from import_runs", &["2014-06-01"]).await;
    server.close().await;
    let output = import.run(&["reconcile", &import.mor.url()]);
    assert_eq!(output.code, 0, "{output:?}");
    import.mor.execute("update actions set data = 'changed' where id in (1, 2)").await;
    let output = import.run(&["reconcile", &import.mor.url()]);
    assert!(output.stdout.contains("actions 2 data") && !output.stdout.contains("actions 1 "), "{output:?}");
}

#[tokio::test]
async fn history_is_a_date() {
    let import = Import::with("").await;
    for date in ["2014-02-30", "2014", "01.06.2014", "2014-06-01' or ''='"] {
        let output = import.import(&["--history", date]);
        assert!(output.code == 2 && output.stderr.contains("expected a date such as 2025-01-31"), "{output:?}");
    }
}

/// Addresses are in a latin1 table: UTF-8 bytes, the same in latin1, and a text that was repaired by hand.
const LATIN1: &str = "
    insert into addresses (id, city, state) values
        (1, convert(cast('Šiauliai €' as binary) using latin1), 'ASCII'), (2, 'café', null), (3, 'Ã', ''), (4, null, null)";

#[tokio::test]
async fn texts_are_repaired_in_the_named_tables_alone() {
    let import = Import::new(LATIN1).await;
    let output = import.import(&["--charset-repair", "calls"]);
    assert!(output.code == 1 && output.stderr.contains("--charset-repair calls: there is no such table"), "{output:?}");
    let output = import.import_ok(&["--charset-repair", "addresses"]);
    assert!(output.stdout.contains("charset_repaired in addresses: 1"), "{output:?}");
    let server = import.server().await;
    server.assert_rows("select city from addresses order by id", &["Šiauliai €", "café", "Ã", "∅"]).await;
    server
        .assert_rows(
            "select id, \"column\", original, decision from import_findings where rule = 'charset_repaired'",
            &["1|city|Å\u{a0}iauliai â‚¬|replaced"],
        )
        .await;
    server.close().await;
    let output = import.run(&["reconcile", &import.mor.url()]);
    assert_eq!(output.code, 0, "{output:?}");

    let import = Import::new(LATIN1).await;
    import.import_ok(&[]);
    let server = import.server().await;
    server.assert_rows("select city from addresses where id = 1", &["Å\u{a0}iauliai â‚¬"]).await;
}

#[tokio::test]
async fn a_slow_import_says_how_old_the_snapshot_gets() {
    let import = Import::new(
        "insert into actions (date, action) select '2014-05-01 12:00:00', 'test' from seq_1_to_20000;
         analyze table actions, cards, users",
    )
    .await;
    let output = import.import(&["--max-rows-per-second", "1"]);
    assert!(
        output.code == 1 && output.stderr.contains("h ") && output.stderr.contains("accept it with --yes"),
        "{output:?}"
    );
    let output = import.import_ok(&["--max-rows-per-second", "200000"]);
    assert!(output.stderr.contains("old when its last row is read"), "{output:?}");
    let output = import.import(&["--max-rows-per-second", "0"]);
    assert_eq!(output.code, 2, "{output:?}");
}

#[tokio::test]
async fn an_import_is_not_repeated_while_nothing_has_changed() {
    let import = Import::new(LOG).await;
    import.import_ok(&[]);
    for _ in 0..2 {
        let output = import.import_ok(&[]);
        assert!(output.stdout.contains("Nothing has changed since the import of 2"), "{output:?}");
    }
    let server = import.server().await;
    server.assert_rows("select count(*) from import_runs", &["1"]).await;
    // A server may run: nothing is changed.
    import.import_ok(&[]);
    server.close().await;
    import.mor.execute("update actions set data = 'changed' where id = 1").await;
    let output = import.import(&[]);
    let expected = ["and rows have changed since", "replace the rows with --replace"];
    assert!(output.code == 1 && expected.iter().all(|text| output.stderr.contains(text)), "{output:?}");
    // Another MOR.
    let other = Import::with(&[X7_SCHEMA, BASICS].concat()).await;
    let output = import.run(&["import", &other.mor.url(), "--time-zone", "UTC"]);
    assert!(output.code == 1 && output.stderr.contains("the database is in use"), "{output:?}");
}

#[tokio::test]
async fn differences_tell_on_which_side_rows_have_changed() {
    let import = Import::new(
        "insert into cards (id, number, pin, balance, cardgroup_id) select 10000 + seq, 3000000000 + seq, 3000000 + seq, 10, 7
         from seq_1_to_3000",
    )
    .await;
    import.import_ok(&[]);
    import.mor.execute("update cards set name = 'new' where id in (101, 10001, 12000)").await;
    import
        .execute(
            "update cards set name = 'other' where id in (103, 10500); insert into lcrs (id, name) values (9, 'new')",
        )
        .await;
    let output = import.run(&["reconcile", &import.mor.url()]);
    assert_eq!(output.code, 1, "{output:?}");
    for difference in [
        "cards 101 name: \"new\" in MOR, \"\" in Mortise (rows near this id changed on both sides since the import)",
        "cards 10001 name: \"new\" in MOR, \"\" in Mortise (changed in MOR since the import)",
        "cards 10500 name: \"\" in MOR, \"other\" in Mortise (changed in Mortise since the import)",
        "lcrs 9: the row is in Mortise only (changed in Mortise since the import)",
    ] {
        assert!(output.stdout.contains(&format!("DIFFERENCE {difference}")), "{difference}: {output:?}");
    }
}
