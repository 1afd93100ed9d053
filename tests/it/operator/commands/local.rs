//! Commands on the local PostgreSQL: while a server runs it, and without a server.

use std::path::Path;

use super::{CommandOutput, run_command};
use crate::harness::process::{self, create_data_dir, postmaster_pid, start};

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
            check["state"] != "ok" && !["disk", "passwords", "backup"].contains(&check["name"].as_str().unwrap())
        })
        .collect();
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(postmaster_pid(data.path()), None);

    // The next server uses the new key.
    let server = start(process::serve_command(data.path()));
    assert!(server.buy_cards().await.contains("Incorrect hash"));
    server.stop();
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
