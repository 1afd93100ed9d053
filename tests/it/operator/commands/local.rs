//! Commands on the local PostgreSQL: while a server runs it, and without a server.

use std::path::Path;

use super::{CommandOutput, run_command, url};
use crate::harness::process::{self, create_data_dir, postmaster_pid, start};
use crate::harness::program::Program;
use crate::harness::{FIXTURE_SQL, postgres};

fn run(data: &Path, arguments: &[&str]) -> CommandOutput {
    let mut command = super::command(arguments);
    command.env("MORTISE_DATA_DIR", data);
    run_command(command, "")
}

#[tokio::test]
async fn commands_work_with_and_without_a_running_server() {
    let data = create_data_dir();
    let missing = run(data.path(), &["user", "list"]);
    assert!(missing.code == 4 && missing.stderr.contains("no database in"), "{missing:?}");
    assert!(!data.path().join("postgres").exists());

    let server = start(process::serve_command(data.path()));
    let generated = run(data.path(), &["cards", "generate", "--group", "6", "--quantity", "2"]);
    assert_eq!(
        generated.stdout, "2 cards were created in group 6, with the numbers 1111121000 to 1111121001.\n",
        "{generated:?}"
    );
    let doctor = run(data.path(), &["doctor"]);
    assert!(doctor.code == 1 && doctor.stdout.contains("PROBLEM  demo key"), "{doctor:?}");
    let health = run(data.path(), &["healthcheck", "--listen", &server.address.to_string()]);
    assert_eq!((health.code, health.stdout.as_str()), (0, "ready\n"), "{health:?}");
    // The server's port is another one than that of the settings: the commands find it.
    let health = run(data.path(), &["healthcheck"]);
    assert_eq!((health.code, health.stdout.as_str()), (0, "ready\n"), "{health:?}");
    let address = server.address;
    assert!(doctor.stdout.contains(&format!("valid; the server listens on {address}\n")), "{doctor:?}");
    let signed = run(data.path(), &["sign", "card_from_group_sell", "id=6", "--key-of", "username"]);
    assert!(signed.stdout.contains(&format!(" http://{address}/billing/api/card_from_group_sell")), "{signed:?}");
    let named =
        run(data.path(), &["sign", "card_from_group_sell", "id=6", "--key-of", "username", "--listen", "[::]:99"]);
    assert!(named.stdout.contains(" http://[::1]:99/billing/api/"), "{named:?}");
    assert!(server.buy_cards().await.contains("<number>1111111000</number>"));
    server.stop();

    assert_eq!(postmaster_pid(data.path()), None);
    // No server runs: the address is that of the settings.
    let signed = run(data.path(), &["sign", "card_from_group_sell", "id=6", "--key-of", "username"]);
    assert!(signed.stdout.contains(" http://127.0.0.1:3000/billing/api/"), "{signed:?}");
    let key = run(data.path(), &["key", "rotate", "--keep", "0s"]);
    assert!(key.code == 0 && key.stderr.is_empty(), "{key:?}");
    // The problem is fixed, and the command stops the database that it has started.
    let doctor = run(data.path(), &["doctor", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&doctor.stdout).unwrap();
    let failed: Vec<_> = json["checks"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|check| {
            // The demo has e-mails that wait, and the account of its console.
            let expected = ["disk", "passwords", "backup", "mail", "console"];
            check["state"] != "ok" && !expected.contains(&check["name"].as_str().unwrap())
        })
        .collect();
    assert!(failed.is_empty(), "{failed:?}");
    assert!(doctor.stdout.contains("the password of its account demo is public"), "{}", doctor.stdout);
    assert_eq!(postmaster_pid(data.path()), None);

    // The next server uses the new key.
    let server = start(process::serve_command(data.path()));
    assert!(server.buy_cards().await.contains("Incorrect hash"));
    server.stop();
}

/// A server on a given database publishes its address too. A server that was killed does not run any more.
#[tokio::test]
async fn address_of_a_server_on_a_given_database_is_found() {
    let (database, other) = (postgres::create_database(FIXTURE_SQL).await, postgres::create_database("").await);
    let data = tempfile::tempdir().unwrap();
    let data_dir = data.path().join("new");
    let start = async || {
        let mut command = Program::command(&database, &[]).await;
        command.env("MORTISE_DATA_DIR", &data_dir);
        Program::start(command)
    };
    let run = async |database: &str, arguments: &[&str]| {
        let mut command = super::command(arguments);
        command.env("MORTISE_DATA_DIR", &data_dir).env("DATABASE_URL", url(database).await);
        run_command(command, "")
    };
    let sign = ["sign", "card_from_group_sell", "id=6", "--key-of", "admin"];
    let server = start().await;
    let health = run(&database, &["healthcheck"]).await;
    assert_eq!((health.code, health.stdout.as_str()), (0, "ready\n"), "{health:?}");
    let signed = run(&database, &sign).await;
    assert!(signed.stdout.contains(&format!(" http://{}/billing/api/", server.address)), "{signed:?}");
    let doctor = run(&database, &["doctor"]).await;
    assert!(doctor.stdout.contains(&format!("valid; the server listens on {}\n", server.address)), "{doctor:?}");
    let named = run(&database, &[&sign[..], &["--listen", "[::]:99"]].concat()).await;
    assert!(named.stdout.contains(" http://[::1]:99/billing/api/"), "{named:?}");
    // The server of another database.
    let doctor = run(&other, &["doctor"]).await;
    assert!(doctor.stdout.contains("valid; the server listens on 127.0.0.1:3000\n"), "{doctor:?}");
    // The address of the server that was started last, as long as it runs.
    let second = start().await;
    let signed = run(&database, &sign).await;
    assert!(signed.stdout.contains(&format!(" http://{}/billing/api/", second.address)), "{signed:?}");
    server.stop();
    let signed = run(&database, &sign).await;
    assert!(signed.stdout.contains(&format!(" http://{}/billing/api/", second.address)), "{signed:?}");
    let from_settings = async || {
        let signed = run(&database, &sign).await;
        assert!(signed.stdout.contains(" http://127.0.0.1:3000/billing/api/"), "{signed:?}");
    };
    // Kills it.
    drop(second);
    assert_eq!(std::fs::read_dir(&data_dir).unwrap().count(), 1);
    from_settings().await;
    start().await.stop();
    assert_eq!(std::fs::read_dir(&data_dir).unwrap().count(), 0);
    from_settings().await;
}

/// Without a directory that can be written, the server works, and the address is that of the settings.
#[tokio::test]
async fn address_that_cannot_be_published_is_that_of_the_settings() {
    let database = postgres::create_database(FIXTURE_SQL).await;
    let mut command = Program::command(&database, &[]).await;
    command.env("MORTISE_DATA_DIR", "/dev/null");
    let log = Program::start(command).stop();
    assert!(!log.contains("cannot publish"), "{log}");
}

/// The first start after `mortise migrate` finds an empty database and creates the admin.
#[tokio::test]
async fn migrate_creates_a_database_before_the_first_start() {
    let data = create_data_dir();
    let migrated = run(data.path(), &["migrate"]);
    assert!(migrated.code == 0 && migrated.stdout.contains("the schema is up to date"), "{migrated:?}");
    assert_eq!(postmaster_pid(data.path()), None);
    let mut command = process::serve_command(data.path());
    command.env("MORTISE_MIGRATE", "off");
    let server = start(command);
    assert!(server.buy_cards().await.contains("<number>1111111000</number>"));
    server.stop();
}
