//! `mortise import --replace`: the rows of a database in use are replaced, with a backup.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use mortise::managed_postgres::installation::find_binaries;

use super::Import;
use crate::harness::server_on_database;

const SETTINGS: &str = "
    insert into conflines (name, value, owner_id) values
        ('Allow_API', '1', 0), ('Allow_GET_API', '1', 0), ('API_Secret_Key', 'secret', 0)";

/// An imported database in which a card was sold.
async fn used_database() -> Import {
    let import = Import::new(SETTINGS).await;
    import.import_ok(&[]);
    let server = import.server().await;
    let reply = server.post_signed("card_from_group_sell", "u=admin&id=7", "7").await;
    assert_eq!(reply.element_texts("number"), ["1000000101"], "{}", reply.body);
    server
        .execute(
            r"insert into idempotency_keys (user_id, operation, key, fingerprint) values (0, 'a', 'b', 'c');
              update cards set name = E'tab\t, line\n, \\. and \\N' where id = 102;
              insert into change_log (who, what) values ('command', 'setting');
              insert into console_accounts (name, role, password_argon2) values ('Ann', 'admin', 'hash');
              insert into console_recovery_codes (code_sha256, account_id) values ('code', 1)",
        )
        .await;
    server.close().await;
    import.mor.execute("update cards set name = 'of MOR' where id = 103").await;
    import
}

#[tokio::test(flavor = "multi_thread")]
async fn sales_are_deleted_only_if_their_number_and_a_backup_are_named() {
    let import = used_database().await;
    let backup = import.file("backup.sql");
    let existing = import.file("existing");
    std::fs::write(&existing, "").unwrap();
    let (backup, existing) = (backup.to_str().unwrap(), existing.to_str().unwrap());
    for (options, expected) in [
        (&["--replace"][..], "use --discard-sales 1 --backup FILE"),
        (&["--replace", "--discard-sales", "1"], "use --discard-sales 1 --backup FILE"),
        (&["--replace", "--backup", backup], "use --discard-sales 1 --backup FILE"),
        (
            &["--replace", "--discard-sales", "2", "--backup", backup],
            "has 1 payments of sales, top-ups and refunds, not 2",
        ),
        (&["--replace", "--discard-sales", "1", "--backup", existing], "cannot write the backup"),
        (&["--replace", "--discard-sales", "1", "--backup", "/nosuch/file"], "cannot write the backup /nosuch/file"),
    ] {
        let output = import.import(options);
        assert!(output.code == 1 && output.stderr.contains(expected), "{options:?}: {output:?}");
    }
    for options in [&["--discard-sales", "1"][..], &["--backup", backup], &["--replace", "--dry-run"]] {
        assert_eq!(import.import(options).code, 2);
    }
    let server = server_on_database(&import.database, &[]).await;
    let output = import.import(&["--replace", "--discard-sales", "1", "--backup", backup]);
    assert!(output.code == 1 && output.stderr.contains("uses the database: stop it first"), "{output:?}");
    server.assert_rows("select count(*) from payments where kind = 'sale'", &["1"]).await;
    server.assert_rows("select name from cards where id = 103", &[""]).await;
    assert!(!Path::new(backup).exists());
}

const STATE: &str = "select (select string_agg(c::text, ';' order by id) from cards c) as cards,
    (select string_agg(p::text, ';') from payments p) as payments,
    (select string_agg(i::text, ';') from idempotency_keys i) as keys, (select string_agg(s::text, ';' order by card_id) from card_stock s) as stock,
    (select string_agg(u::text, ';') from users u) as users, (select last_value from payments_id_seq) as sequence";

#[tokio::test(flavor = "multi_thread")]
async fn the_rows_are_replaced_and_the_backup_restores_them() {
    let import = used_database().await;
    let server = import.server().await;
    let before = server.rows(STATE).await;
    server.close().await;
    let backup = import.file("backup.sql");
    let options = ["--replace", "--discard-sales", "1", "--backup", backup.to_str().unwrap()];
    let output = import.import_ok(&options);
    assert!(output.stdout.contains("every row and every checksum agrees"), "{output:?}");
    assert_eq!(std::fs::metadata(&backup).unwrap().permissions().mode() & 0o777, 0o600);
    let server = import.server().await;
    for (query, rows) in [
        ("select count(*) from payments", &["0"][..]),
        ("select count(*) from idempotency_keys", &["0"]),
        ("select count(*) from email_outbox", &["0"]),
        ("select card_id from card_stock order by 1", &["101", "102", "103", "104", "105"]),
        ("select name from cards where id in (102, 103) order by id", &["", "of MOR"]),
        // The change log is kept.
        (
            "select what, operator, after ->> 'discarded_sales' from change_log order by id",
            &["import|ann|∅", "setting|∅|∅", "import|ann|1"],
        ),
        ("select count(*) from import_runs", &["2"]),
        // The accounts of the console are kept.
        (
            "select name, password_argon2, (select count(*) from console_recovery_codes) from console_accounts",
            &["Ann|hash|1"],
        ),
    ] {
        server.assert_rows(query, rows).await;
    }
    assert_ne!(server.rows(STATE).await, before);
    server.close().await;
    assert_eq!(import.run(&["reconcile", &import.mor.url()]).code, 0);

    let psql = find_binaries(Path::new("no cluster")).await.unwrap().join("psql");
    let mut restore = Command::new(psql);
    restore.args([
        "--no-psqlrc",
        "--quiet",
        "--set",
        "ON_ERROR_STOP=1",
        "--file",
        backup.to_str().unwrap(),
        &import.url,
    ]);
    let output = restore.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let server = import.server().await;
    assert_eq!(server.rows(STATE).await, before);
    server.assert_rows("select count(*) from card_stock_differences", &["0"]).await;
}

#[tokio::test]
async fn a_database_without_sales_is_replaced_without_a_backup() {
    let import = Import::new(SETTINGS).await;
    import.import_ok(&[]);
    import.mor.execute("update cards set name = 'of MOR' where id = 103").await;
    import.import_ok(&["--replace"]);
    let server = import.server().await;
    server.assert_rows("select name from cards where id = 103", &["of MOR"]).await;
}
