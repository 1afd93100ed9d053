//! `mortise backup` and `mortise restore`.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use mortise::back_office::backup::ClientEnvironment;
use mortise::managed_postgres::installation::find_binaries;
use serde_json::Value;

use super::{CommandOutput, Files, command, run_command, url};
use crate::harness::process::{self, create_data_dir, start};
use crate::harness::{postgres, server_on_database};

fn back_up(files: &Files, name: &str) -> CommandOutput {
    files.operator.run(&["backup", files.path(name).to_str().unwrap()])
}

async fn restore(files: &Files, name: &str, database: &str) -> CommandOutput {
    run_on(&url(database).await, &["restore", files.path(name).to_str().unwrap()])
}

fn run_on(url: &str, arguments: &[&str]) -> CommandOutput {
    let mut command = command(arguments);
    command.env("DATABASE_URL", url);
    run_command(command, "")
}

#[tokio::test]
async fn restored_database_has_each_row_and_sells_on() {
    let office = Files::new("").await;
    let server = &office.operator.server;
    server.post_signed("card_from_group_sell", "u=admin&id=6", "6").await;
    server
        .execute(
            "insert into console_accounts (name, role, password_argon2, totp_secret) values ('Ann', 'admin', 'hash', 'secret');
             insert into console_recovery_codes (code_sha256, account_id) values ('code', 1);
             insert into console_sessions (secret_sha256, account_id, client, browser) values ('a', 1, '', '');
             insert into console_submissions (id, account_id) values ('a', 1)",
        )
        .await;
    let backup = back_up(&office, "a.dump");
    assert_eq!((backup.code, backup.stderr.as_str()), (0, ""), "{backup:?}");
    assert!(
        backup.stdout.contains("with 13 cards, 1 payments and 11 users.\nChecked: each row is there; the schema, the stock and the ledger are correct.\n"),
        "{backup:?}"
    );
    assert_eq!(std::fs::metadata(office.path("a.dump")).unwrap().permissions().mode() & 0o777, 0o600);
    server
        .assert_rows("select file, bytes > 10000 from backups", &[&format!("{}|true", office.path("a.dump").display())])
        .await;
    // A card that is sold after the backup is for sale again in the restored database.
    let sold = server.post_signed("card_from_group_sell", "u=admin&id=6", "6").await.body;

    let database = postgres::create_empty_database("encoding 'UTF8'").await;
    let restored = restore(&office, "a.dump", &database).await;
    assert_eq!((restored.code, restored.stderr.as_str()), (0, ""), "{restored:?}");
    assert!(
        restored.stdout.contains("with 13 cards, 1 payments and 11 users.\nChecked: each row is there; the schema"),
        "{restored:?}"
    );
    let copy = server_on_database(&database, &[]).await;
    for table in ["accounts", "recovery_codes", "sessions", "submissions"] {
        let rows = format!("select * from console_{table}");
        assert_eq!(copy.rows(&rows).await, server.rows(&rows).await, "{table}");
        assert_eq!(copy.rows(&rows).await.len(), 1, "{table}");
    }
    let resold = copy.post_signed("card_from_group_sell", "u=admin&id=6", "6").await.body;
    assert_eq!(resold, sold);
    let json = office.operator.run(&["backup", office.path("b.dump").to_str().unwrap(), "--json"]);
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((&json["checked"]["payments"], &json["checked"]["problems"]), (&2.into(), &Value::Array(vec![])));
}

#[tokio::test]
async fn backup_replaces_no_file() {
    let office = Files::new("").await;
    std::fs::write(office.path("a.dump"), "precious").unwrap();
    let refused = back_up(&office, "a.dump");
    assert!(refused.code == 1 && refused.stderr.contains("File exists"), "{refused:?}");
    assert_eq!(std::fs::read_to_string(office.path("a.dump")).unwrap(), "precious");
}

/// Damaged data is backed up all the same, and named.
#[tokio::test]
async fn problems_of_the_data_are_reported() {
    let office = Files::new("").await;
    office
        .operator
        .server
        .execute(
            "delete from card_stock where card_id = 1;
             update cards set retired_at = now(), balance = 5 where id = 4;
             insert into payments (id, kind, amount, tax, reverses) values (1, 'sale', 5, 1, null), (2, 'refund', -5, -1, 1), (3, 'refund', -5, 0, 1);
             alter table cards drop constraint cards_sold",
        )
        .await;
    let backup = back_up(&office, "a.dump");
    assert_eq!(backup.code, 1, "{backup:?}");
    for problem in [
        "PROBLEM constraint cards.cards_sold is missing",
        "PROBLEM 1 cards are in stock but cannot be sold, or the reverse",
        "PROBLEM the retired card 1111111000 (id 4) has a balance",
        "PROBLEM the refunds of the payment 1 are more than its amount or tax, or have the wrong sign",
    ] {
        assert!(backup.stdout.contains(problem), "{problem}: {}", backup.stdout);
    }
    let database = postgres::create_empty_database("encoding 'UTF8'").await;
    let restored = restore(&office, "a.dump", &database).await;
    assert!(
        restored.code == 1 && restored.stdout.contains("PROBLEM constraint cards.cards_sold is missing"),
        "{restored:?}"
    );
}

#[tokio::test]
async fn restore_replaces_nothing() {
    let office = Files::new("").await;
    assert_eq!(back_up(&office, "a.dump").code, 0);
    let refused = run_on(&office.operator.url, &["restore", office.path("a.dump").to_str().unwrap()]);
    assert!(refused.code == 1 && refused.stderr.contains("mortise: the database is not empty (it has "), "{refused:?}");
    assert!(refused.stderr.contains("and a restore replaces nothing"), "{refused:?}");
    // One table of another program is enough.
    let database = postgres::create_empty_database("encoding 'UTF8'").await;
    let options = postgres::connect_options(&database).await;
    let pool = sqlx::PgPool::connect_with(options).await.unwrap();
    sqlx::raw_sql("create schema other; create table other.notes (id integer)").execute(&pool).await.unwrap();
    let refused = restore(&office, "a.dump", &database).await;
    assert!(refused.code == 1 && refused.stderr.contains("it has 1 tables"), "{refused:?}");
    // A server that starts holds this lock.
    sqlx::raw_sql("drop schema other cascade").execute(&pool).await.unwrap();
    let mut starting = pool.acquire().await.unwrap();
    sqlx::raw_sql("select pg_advisory_lock(hashtextextended('migrate', 0))").execute(&mut *starting).await.unwrap();
    let refused = restore(&office, "a.dump", &database).await;
    assert!(refused.code == 1 && refused.stderr.contains("a server is starting on this database"), "{refused:?}");
    starting.close().await.unwrap();
    assert_eq!(restore(&office, "a.dump", &database).await.code, 0);
}

#[tokio::test]
async fn damaged_and_foreign_files_are_refused_before_anything_is_written() {
    let office = Files::new("").await;
    assert_eq!(back_up(&office, "a.dump").code, 0);
    let dump = std::fs::read(office.path("a.dump")).unwrap();
    std::fs::write(office.path("short.dump"), &dump[..dump.len() - dump.len() / 4]).unwrap();
    std::fs::write(office.path("text.dump"), "this is no dump").unwrap();
    let database = postgres::create_empty_database("encoding 'UTF8'").await;
    for name in ["short.dump", "text.dump"] {
        let refused = restore(&office, name, &database).await;
        assert!(
            refused.code == 1 && refused.stderr.contains("the file is not a complete dump of pg_dump --format=custom"),
            "{name}: {refused:?}"
        );
    }
    // A newer version, and another program's database.
    office.operator.server.execute("insert into _sqlx_migrations (version, description, success, checksum, execution_time) values (99990001, '', true, '', 0)").await;
    let refused = back_up(&office, "refused.dump");
    assert!(refused.code == 1 && refused.stderr.contains("last used by a newer Mortise"), "{refused:?}");
    let mut dump = std::process::Command::new(programs().await.join("pg_dump"));
    dump.args(["--format=custom", "--file"]).arg(office.path("newer.dump")).arg(&office.operator.url);
    assert!(dump.status().unwrap().success());
    let refused = restore(&office, "newer.dump", &database).await;
    assert!(
        refused.code == 1 && refused.stderr.contains("of a newer Mortise (it has migration 99990001)"),
        "{refused:?}"
    );
    let other = postgres::create_empty_database("").await;
    let mut dump = std::process::Command::new(programs().await.join("pg_dump"));
    dump.args(["--format=custom", "--file"]).arg(office.path("other.dump")).arg(url(&other).await);
    assert!(dump.status().unwrap().success());
    let refused = restore(&office, "other.dump", &database).await;
    assert!(refused.code == 1 && refused.stderr.contains("is not a dump of a database of Mortise"), "{refused:?}");
    let tables = sqlx::PgPool::connect_with(postgres::connect_options(&database).await).await.unwrap();
    let count: i64 = sqlx::query_scalar("select count(*) from pg_tables where schemaname = 'public'")
        .fetch_one(&tables)
        .await
        .unwrap();
    assert_eq!(count, 0);
}

async fn programs() -> PathBuf {
    find_binaries(Path::new("no cluster")).await.unwrap()
}

/// An empty database, or one of another program, has nothing that a restore could use.
#[tokio::test]
async fn database_of_another_program_is_not_backed_up() {
    let office = Files::new("").await;
    let database = postgres::create_empty_database("encoding 'UTF8'").await;
    let back_up = async || run_on(&url(&database).await, &["backup", office.path("a.dump").to_str().unwrap()]);
    let refused = back_up().await;
    assert!(refused.code == 1 && refused.stderr.contains("this is not a database of Mortise"), "{refused:?}");
    let pool = sqlx::PgPool::connect_with(postgres::connect_options(&database).await).await.unwrap();
    sqlx::raw_sql("create table cards (id integer)").execute(&pool).await.unwrap();
    let refused = back_up().await;
    assert!(refused.code == 1 && refused.stderr.contains("this is not a database of Mortise"), "{refused:?}");
    assert!(!office.path("a.dump").exists());
}

/// A check that cannot run does not cost the backup.
#[tokio::test]
async fn backup_is_kept_if_a_check_fails() {
    let office = Files::new("").await;
    office.operator.server.execute("alter view card_stock_differences rename to other").await;
    let backup = back_up(&office, "a.dump");
    assert_eq!(backup.code, 1, "{backup:?}");
    let problem = "PROBLEM a check failed, and those after it were left out: ";
    assert!(backup.stdout.contains(problem), "{backup:?}");
    assert!(office.path("a.dump").exists());
    let database = postgres::create_empty_database("encoding 'UTF8'").await;
    let restored = restore(&office, "a.dump", &database).await;
    assert!(restored.code == 1 && restored.stdout.contains(problem), "{restored:?}");
}

#[tokio::test]
async fn tables_of_other_schemas_and_of_extensions_are_told_apart() {
    let office = Files::new("").await;
    let statements = r#"create schema "a ""b"".c"; create table "a ""b"".c".cards (id integer);
        insert into "a ""b"".c".cards values (1);
        create table notes (id integer); insert into notes values (1); alter extension plpgsql add table notes"#;
    office.operator.server.execute(statements).await;
    let backup = back_up(&office, "a.dump");
    assert!(backup.stdout.contains("with 13 cards, 0 payments and 11 users"), "{backup:?}");
    let database = postgres::create_empty_database("encoding 'UTF8'").await;
    let restored = restore(&office, "a.dump", &database).await;
    assert!(restored.stdout.contains("with 13 cards, 0 payments and 11 users"), "{restored:?}");
    let pool = sqlx::PgPool::connect_with(postgres::connect_options(&database).await).await.unwrap();
    let count: i64 = sqlx::query_scalar(r#"select count(*) from "a ""b"".c".cards"#).fetch_one(&pool).await.unwrap();
    assert_eq!(count, 1);
}

/// A server would find no tables, and create new ones.
#[tokio::test]
async fn restore_into_an_invisible_schema_fails() {
    let office = Files::new("").await;
    office.operator.server.execute(r#"alter schema public rename to "My Shop""#).await;
    let mut dump = std::process::Command::new(programs().await.join("pg_dump"));
    dump.args(["--format=custom", "--file"]).arg(office.path("a.dump")).arg(&office.operator.url);
    assert!(dump.status().unwrap().success());
    let database = postgres::create_empty_database("encoding 'UTF8'").await;
    let failed = restore(&office, "a.dump", &database).await;
    assert!(failed.code == 1 && failed.stderr.contains("in a schema that is not in the search_path"), "{failed:?}");
}

/// libpq gets the address and the files in its own form.
#[test]
fn programs_connect_as_the_commands_do() {
    let environment = |url: &str| format!("{:?}", ClientEnvironment::from_url(url, &url.parse().unwrap()).unwrap());
    let system = environment("postgres://a@[::1]:6432/b?sslmode=verify-full");
    assert!(system.contains(r#"("PGHOST", "::1")"#) && system.contains(r#"("PGPORT", "6432")"#), "{system}");
    assert!(system.contains(r#"("PGSSLROOTCERT", "system")"#), "{system}");
    let file = environment("postgres://a@db.example/b?sslmode=verify-full&sslrootcert=certificates/root.pem");
    let path = std::env::current_dir().unwrap().join("certificates/root.pem");
    assert!(file.contains(&format!(r#"("PGSSLROOTCERT", "{}")"#, path.display())), "{file}");
    assert!(!environment("postgres://a@db.example/b?sslmode=require").contains("PGSSLROOTCERT"));
}

/// Only programs of the server's version are used: a sentence says what to install.
#[tokio::test]
async fn programs_of_another_version_are_refused() {
    let office = Files::new("").await;
    let binaries = office.path("bin");
    std::fs::create_dir(&binaries).unwrap();
    for (version, major) in [("9.6.24", 9), ("99.1", 99)] {
        for name in ["pg_dump", "pg_restore"] {
            let path = binaries.join(name);
            std::fs::write(&path, format!("#!/bin/sh\necho '{name} (PostgreSQL) {version}'\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let mut command = command(&["backup", office.path("a.dump").to_str().unwrap()]);
        command.env("DATABASE_URL", &office.operator.url).env("POSTGRES_BIN", &binaries).env("PATH", "/nowhere");
        let refused = run_command(command, "");
        let message = format!("needs pg_dump of the same major version; installed: {major}. Install it");
        assert!(refused.code == 1 && refused.stderr.contains(&message), "{refused:?}");
        assert!(!office.path("a.dump").exists());
    }
}

/// The programs get the password in their environment, which other users cannot read.
#[tokio::test]
async fn password_is_in_no_argument() {
    let office = Files::new("").await;
    let binaries = office.path("bin");
    std::fs::create_dir(&binaries).unwrap();
    let real = programs().await;
    for name in ["pg_dump", "pg_restore"] {
        let path = binaries.join(name);
        let script = format!(
            "#!/bin/sh\necho \"$0 $*\" >> {log}\nexpr \"$PGPASSWORD\" : '.*' >> {log}\nexec {real}/{name} \"$@\"\n",
            log = office.path("log").display(),
            real = real.display()
        );
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let url = office.operator.url.replace("postgres@localhost", "postgres:s%20cr%2Ft-w0rd@localhost");
    let mut command = command(&["backup", office.path("a.dump").to_str().unwrap()]);
    command.env("DATABASE_URL", url).env("POSTGRES_BIN", &binaries);
    let output = run_command(command, "");
    assert_eq!(output.code, 0, "{output:?}");
    let log = std::fs::read_to_string(office.path("log")).unwrap();
    assert!(log.contains("pg_dump --format=custom") && !log.contains("w0rd"), "{log}");
    // The length of the decoded password.
    assert!(log.lines().any(|line| line == "11"), "{log}");
}

/// The local PostgreSQL: back up beside the running server, restore into a new data directory.
#[tokio::test]
async fn local_database_is_backed_up_and_restored() {
    let (data, new_data, files) = (create_data_dir(), create_data_dir(), tempfile::tempdir().unwrap());
    let run = |data: &Path, arguments: &[&str]| {
        let mut command = command(arguments);
        command.env("MORTISE_DATA_DIR", data);
        run_command(command, "")
    };
    let file = files.path().join("a.dump");
    let file = file.to_str().unwrap();
    let server = start(process::serve_command(data.path()));
    server.buy_cards().await;
    let backup = run(data.path(), &["backup", file]);
    assert_eq!((backup.code, backup.stderr.as_str()), (0, ""), "{backup:?}");
    let next = server.buy_cards().await;
    let doctor = run(data.path(), &["doctor"]);
    assert!(doctor.stdout.contains("ok       backup        the last backup is of "), "{}", doctor.stdout);
    let refused = run(data.path(), &["restore", file]);
    assert!(refused.code == 1 && refused.stderr.contains("the database is not empty"), "{refused:?}");
    server.stop();

    let restored = run(new_data.path(), &["restore", file]);
    assert_eq!((restored.code, restored.stderr.as_str()), (0, ""), "{restored:?}");
    let payments =
        |text: &str| text.split(" cards, ").nth(1).unwrap().split(' ').next().unwrap().parse::<u32>().unwrap();
    assert_eq!(payments(&restored.stdout), payments(&backup.stdout));
    assert!(payments(&restored.stdout) > 2, "{restored:?}");
    let server = start(process::serve_command(new_data.path()));
    assert_eq!(server.buy_cards().await, next);
    server.stop();
}
