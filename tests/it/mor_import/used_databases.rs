//! An import fills a new database only, and nothing else uses it meanwhile.

use std::process::Stdio;

use mortise::db::seed;
use sqlx::{Connection, Executor};

use super::Import;
use crate::harness::server_on_database;
use crate::operator::commands::command;

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_a_server_uses_is_not_filled() {
    let import = Import::new("").await;
    let _server = server_on_database(&import.database, &[]).await;
    let output = import.import(&[]);
    assert!(output.code == 1 && output.stderr.contains("uses the database: stop it first"), "{output:?}");
    // A dry run changes nothing.
    import.import_ok(&["--dry-run"]);
}

/// A change that the database of a first start does not have, and the table that the import names.
const USES: [(&str, &str); 12] = [
    ("insert into users (id, username) values (9, 'new')", "users"),
    ("insert into currencies (name) values ('GBP')", "currencies"),
    ("insert into taxes (tax1_value) values (5)", "taxes"),
    ("insert into conflines (name, value) values ('Email_Subject', 'a')", "conflines"),
    ("insert into acc_rights (name) values ('new')", "acc_rights"),
    ("insert into tariffs (name, owner_id) values ('new', 0)", "tariffs"),
    ("insert into lcrs (name) values ('new')", "lcrs"),
    ("insert into locations (name) values ('new')", "locations"),
    ("insert into payments (amount) values (1)", "payments"),
    ("insert into cardgroups (name) values ('new')", "cardgroups"),
    (
        "insert into idempotency_keys (user_id, operation, key, fingerprint) values (0, 'a', 'b', 'c')",
        "idempotency_keys",
    ),
    ("insert into change_log (who, what) values ('command', 'setting')", "change_log"),
];

#[tokio::test]
async fn only_a_new_database_is_filled() {
    let import = Import::new("").await;
    let server = import.server().await;
    seed::seed_if_empty(&server.pool, false, async |_| Ok(())).await.unwrap();
    server.close().await;
    for (change, table) in USES {
        import.execute(change).await;
        let output = import.import(&[]);
        assert!(output.code == 1, "{change}: {output:?}");
        assert!(
            output.stderr.contains(&format!("the table {table} has rows that a first start does not write")),
            "{output:?}"
        );
        let undo = match table {
            "users" => "delete from users where id = 9".to_owned(),
            "payments" | "cardgroups" | "idempotency_keys" | "change_log" => format!("delete from {table}"),
            seeded => format!("delete from {seeded} where id = (select max(id) from {seeded})"),
        };
        import.execute(&undo).await;
    }
    // What a first start writes does not count.
    import.import_ok(&[]);
}

/// Whether the import waits for a table.
const WAITS: &str = "select exists (select from pg_stat_activity where wait_event_type = 'Lock'
    and datname = current_database() and application_name = 'mortise import')";

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_written_during_the_import_stops_it() {
    let import = Import::new("").await;
    let mut writer = import.connect().await;
    writer.execute("begin; insert into users (id, username) values (9, 'new')").await.unwrap();
    let (child, _output) = import.start("build", &[]);
    import.wait_for(WAITS).await;
    writer.execute("commit").await.unwrap();
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("the table users has rows"), "{error}");
    let server = import.server().await;
    server.assert_rows("select username from users", &["new"]).await;
    server.assert_rows("select count(*) from cards", &["0"]).await;
    server.assert_rows("select to_regnamespace('mor_import')", &["∅"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_server_or_command_starts_during_an_import() {
    let import = Import::new("").await;
    let mut reader = import.connect().await;
    reader.execute("begin; select from users").await.unwrap();
    let (child, _output) = import.start("build", &[]);
    import.wait_for(WAITS).await;
    for arguments in [&["serve", "--listen", "127.0.0.1:0"][..], &["group", "list"], &["migrate"]] {
        let output = import.run(arguments);
        assert!(output.code == 4 && output.stderr.contains("`mortise import` fills this database"), "{output:?}");
    }
    reader.execute("commit").await.unwrap();
    reader.close().await.unwrap();
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0));
    let server = import.server().await;
    server.assert_rows("select count(*) from cards", &["5"]).await;
}

/// PostgreSQL can end the session of an import some time after the program.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_waits_for_the_session_of_an_import_that_has_ended() {
    let import = Import::new("").await;
    import.import_ok(&[]);
    let mut session = import.connect().await;
    session.execute("select pg_advisory_lock(hashtextextended('mortise session', 0))").await.unwrap();
    let mut command = command(&["group", "list"]);
    let child = command.env("DATABASE_URL", &import.url).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Its session has asked for the lock once.
    import
        .wait_for(
            "select exists (select from pg_stat_activity where datname = current_database() and application_name = 'mortise'
             and state = 'idle' and query like '%mortise session%')",
        )
        .await;
    session.close().await.unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test]
async fn a_database_in_use_is_not_migrated() {
    let import = Import::new("").await;
    import
        .execute(
            "delete from _sqlx_migrations where version = 23; drop table import_findings, import_runs cascade;
             insert into users (id, username) values (9, 'new')",
        )
        .await;
    for options in [&[][..], &["--dry-run"]] {
        let output = import.import(options);
        assert!(output.code == 1 && output.stderr.contains("the table users has rows"), "{output:?}");
    }
    import.wait_for("select to_regclass('import_runs') is null").await;
}

#[tokio::test]
async fn the_copy_of_the_data_is_dropped_after_an_error() {
    let import = Import::new("").await;
    let decisions = import.file("decisions.tsv");
    std::fs::write(&decisions, "nonsense\n").unwrap();
    let output = import.import(&["--decisions", decisions.to_str().unwrap()]);
    assert!(output.code == 1 && output.stderr.contains("line 1: expected six fields"), "{output:?}");
    import.wait_for("select to_regnamespace('mor_import') is null").await;
}

/// The lists of rows that MySQL gets are split.
#[tokio::test]
async fn many_rows_can_be_left_out() {
    let import = Import::new(
        "insert into cards (id, number, pin, balance, cardgroup_id, owner_id, sold)
             select 2 * seq + 1000, 2000000000 + seq, 1000000 + seq, 10, if(seq % 5 = 0, 7, 99), seq % 2, 1 from seq_1_to_3000;
         insert into cards (id, number, pin, balance, cardgroup_id, owner_id, sold)
             select 20000 + seq, 3000000000 + seq, 3000000 + seq, 10, 99, 0, 1 from seq_1_to_500",
    )
    .await;
    let decisions = import.file("decisions.tsv");
    std::fs::write(&decisions, "orphan_card\tcards\t*\t\t\tleave-out\n").unwrap();
    let output = import.import_ok(&["--decisions", decisions.to_str().unwrap()]);
    let expected = "cards: 3505 rows in MOR, 605 imported, 0 quarantined, 2900 left out";
    assert!(output.stdout.contains(expected), "{output:?}");
    let output = import.run(&["reconcile", &import.mor.url()]);
    assert_eq!(output.code, 0, "{output:?}");
    // A row that was left out is not compared, one beside it is.
    import.mor.execute("update cards set balance = 1 where id in (1002, 1010, 20250)").await;
    let output = import.run(&["reconcile", &import.mor.url()]);
    assert!(output.code == 1 && output.stdout.contains("cards 1010 balance"), "{output:?}");
    assert!(!output.stdout.contains("cards 1002") && !output.stdout.contains("cards 20250"), "{output:?}");
}
