//! Commands on the local PostgreSQL: beside the server that runs it, and without one.

use std::path::Path;

use super::{Said, said};
use crate::harness::process::{self, create_data_dir, postmaster_pid, start};

fn run(data: &Path, arguments: &[&str]) -> Said {
    let mut command = super::command(arguments);
    command.env("MORTISE_DATA_DIR", data);
    said(command, "")
}

#[tokio::test]
async fn commands_work_beside_a_server_and_without_one() {
    let data = create_data_dir();
    let nothing = run(data.path(), &["user", "list"]);
    assert!(nothing.code == 4 && nothing.err.contains("there is no database in"), "{nothing:?}");
    assert!(!data.path().join("postgres").exists());

    let server = start(process::serve_command(data.path()));
    let beside = run(data.path(), &["cards", "generate", "--group", "6", "--quantity", "2"]);
    assert_eq!(beside.out, "2 cards were made in group 6, with numbers from 1111121000 to 1111121001.\n", "{beside:?}");
    let sick = run(data.path(), &["doctor"]);
    assert!(sick.code == 1 && sick.out.contains("PROBLEM  demo key"), "{sick:?}");
    let health = run(data.path(), &["healthcheck", "--listen", &server.address.to_string()]);
    assert_eq!((health.code, health.out.as_str()), (0, "ready\n"), "{health:?}");
    assert!(server.buy_cards().await.contains("<number>1111111000</number>"));
    server.stop();

    assert_eq!(postmaster_pid(data.path()), None);
    let key = run(data.path(), &["key", "rotate", "--keep", "0s"]);
    assert!(key.code == 0 && key.err.is_empty(), "{key:?}");
    // All that was to be mended is, and the database is left as it was found.
    let well = run(data.path(), &["doctor", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&well.out).unwrap();
    let bad: Vec<_> = json["checks"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|check| check["state"] != "ok" && check["name"] != "disk")
        .collect();
    assert!(bad.is_empty(), "{bad:?}");
    assert_eq!(postmaster_pid(data.path()), None);

    // A server that is started finds what the commands did.
    let server = start(process::serve_command(data.path()));
    assert!(server.buy_cards().await.contains("Incorrect hash"));
    server.stop();
}

/// `mortise migrate` may come before the first start, which then finds nobody and makes the admin.
#[tokio::test]
async fn a_database_may_be_made_before_the_first_start() {
    let data = create_data_dir();
    let made = run(data.path(), &["migrate"]);
    assert!(made.code == 0 && made.out.contains("the schema is up to date"), "{made:?}");
    assert_eq!(postmaster_pid(data.path()), None);
    let mut command = process::serve_command(data.path());
    command.env("MORTISE_MIGRATE", "off");
    let server = start(command);
    assert!(server.buy_cards().await.contains("<number>1111111000</number>"));
    server.stop();
}
