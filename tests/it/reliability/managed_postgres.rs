//! The program as an operator runs it: on a PostgreSQL of its own, killed and started again.

use std::ffi::OsStr;
use std::fs::Permissions;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mortise::managed_postgres::ManagedPostgres;
use mortise::managed_postgres::installation::{self, ManagedPostgresError, OsUser};
use rustix::process::{Signal, kill_process, test_kill_process};
use sqlx::ConnectOptions;

use crate::harness::postgres;
use crate::harness::process::{create_data_dir, postmaster_pid, serve_command, start};

fn numbers(reply: &str) -> Vec<&str> {
    reply.split("<number>").skip(1).map(|rest| rest.split('<').next().unwrap()).collect()
}

/// The whole of it in one test, since each start makes a database: the page's example, `kill -9`, a second server, a clean stop.
#[tokio::test]
async fn killed_and_started_again_nothing_is_lost() {
    let data = create_data_dir();
    let first = start(serve_command(data.path()));
    let reply = first.buy_cards().await;
    assert_eq!(numbers(&reply), ["1111111000", "1111111001"], "{reply}");
    let pins: Vec<&str> = reply.split("<pin>").skip(1).map(|rest| &rest[..8]).collect();
    let card = |pin, number| {
        format!(
            "    <card>\n      <pin>{pin}</pin>\n      <number>{number}</number>\n      <balance_without_vat>8.403361344537815</balance_without_vat>\n      \
             <currency>USD</currency>\n    </card>\n"
        )
    };
    let cards = card(pins[0], "1111111000") + &card(pins[1], "1111111001");
    assert_eq!(
        reply,
        format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<page>\n  <cards>\n{cards}  </cards>\n</page>\n")
    );

    let second = serve_command(data.path()).output().unwrap();
    assert!(!second.status.success());
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(said.contains(&format!("another Mortise (process {}) runs on", first.child.id())), "{said}");

    let postgres = postmaster_pid(data.path()).unwrap();
    first.kill();
    test_kill_process(postgres).unwrap();
    let again = start(serve_command(data.path()));
    assert!(again.startup_output.contains("taking up the database that is still running"), "{}", again.startup_output);
    assert_eq!(numbers(&again.buy_cards().await), ["1111111002", "1111111003"]);

    // PostgreSQL killed too: it recovers by itself.
    again.kill();
    kill_process(postgres, Signal::KILL).unwrap();
    let again = start(serve_command(data.path()));
    assert_eq!(numbers(&again.buy_cards().await), ["1111111004", "1111111005"]);

    // A clean stop stops both, and tells no secret a second time.
    let postgres = postmaster_pid(data.path()).unwrap();
    let printed = again.stop();
    assert!(!printed.contains("456789"), "{printed}");
    assert!(test_kill_process(postgres).is_err());
    assert_eq!(postmaster_pid(data.path()), None);

    let log = std::fs::read_to_string(data.path().join("postgres.log")).unwrap();
    assert!(pins.iter().all(|pin| !log.contains(pin)));
}

#[tokio::test]
async fn a_postgres_that_dies_is_started_again() {
    let data = create_data_dir();
    let server = start(serve_command(data.path()));
    server.buy_cards().await;
    kill_process(postmaster_pid(data.path()).unwrap(), Signal::KILL).unwrap();
    let mut reply = server.buy_cards().await;
    while numbers(&reply).is_empty() {
        assert!(reply.contains("temporarily unavailable") || reply.contains("may have been carried out"), "{reply}");
        reply = server.buy_cards().await;
    }
    server.stop();
}

#[tokio::test]
async fn the_first_start_prints_a_key_that_works_once() {
    let data = create_data_dir();
    let without_demo = || {
        let mut command = serve_command(data.path());
        command.env_clear().env("PATH", std::env::var("PATH").unwrap()).env("MORTISE_DATA_DIR", data.path());
        command.env("MORTISE_LISTEN", "127.0.0.1:0");
        let mut plain = Command::new(command.get_program());
        plain.arg("serve").envs(command.get_envs().filter_map(|(name, value)| Some((name, value?)))).current_dir("/");
        plain.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        plain
    };
    let printed = start(without_demo()).stop();
    let key = printed.trim().strip_prefix("First start. User: admin  API secret key: ").unwrap().to_owned();
    assert_eq!(key.len(), 48, "{key}");
    let again = start(without_demo());
    assert!(!again.startup_output.contains(&key));
    assert_eq!(again.stop(), "");
}

/// As root the tests can try both kinds of user; as anybody else the other tests are this one.
#[tokio::test]
async fn an_ordinary_user_has_a_database_too() {
    let Some(account) = OsUser::find_unprivileged().unwrap() else { return };
    let data = create_data_dir();
    account.chown(data.path()).unwrap();
    let mut command = serve_command(&data.path().join("deep/er"));
    command.env_remove("MORTISE_DATA_DIR").env("XDG_DATA_HOME", data.path());
    // The program must be where that user can run it.
    let program = data.path().join("program");
    std::fs::copy(env!("CARGO_BIN_EXE_mortise"), &program).unwrap();
    let mut plain = Command::new(&program);
    plain.args(command.get_args()).envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    plain.env_remove("MORTISE_DATA_DIR").current_dir("/").uid(account.uid()).gid(account.gid());
    plain.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let server = start(plain);
    assert_eq!(numbers(&server.buy_cards().await).len(), 2);
    assert!(postmaster_pid(&data.path().join("mortise")).is_some());
    // root's commands work beside it.
    let mut list = Command::new(env!("CARGO_BIN_EXE_mortise"));
    let list = list
        .args(["user", "list"])
        .env_remove("DATABASE_URL")
        .env("MORTISE_DATA_DIR", data.path().join("mortise"))
        .output()
        .unwrap();
    assert!(list.status.success(), "{}", String::from_utf8_lossy(&list.stderr));
    server.stop();
}

/// Variables for other programs, a number that went to somebody else, a strange path, what a killed initdb left.
#[tokio::test]
async fn a_start_against_the_odds() {
    let data = create_data_dir();
    let odd = data.path().join("da ta, \"x\"");
    let mut first = serve_command(&odd);
    first
        .env("PGPORT", "5433")
        .env("PGSSLMODE", "require")
        .env("PGHOST", "nowhere.test")
        .env("NOT_TEXT", OsStr::from_bytes(b"\xff"));
    std::fs::create_dir_all(odd.join("postgres.new-1/base")).unwrap();
    let server = start(first);
    assert_eq!(numbers(&server.buy_cards().await).len(), 2);
    server.stop();
    assert!(!odd.join("postgres.new-1").exists());
    std::fs::write(odd.join("postgres/postmaster.pid"), format!("{}\n", std::process::id())).unwrap();
    let server = start(serve_command(&odd));
    assert_eq!(numbers(&server.buy_cards().await).len(), 2);
    server.stop();
}

/// A key that can't be shown is not kept.
#[test]
fn a_first_start_that_cannot_tell_its_key_fills_nothing() {
    let data = create_data_dir();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = serve_command(data.path()).stdout(writer).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("the first start failed"), "{said}");
    assert_eq!(postmaster_pid(data.path()), None);
    let server = start(serve_command(data.path()));
    assert!(server.stop().contains("First start."));
}

#[tokio::test]
async fn a_long_path_has_its_socket_elsewhere() {
    let data = create_data_dir();
    let long = data.path().join("x".repeat(120));
    let server = start(serve_command(&long));
    assert_eq!(numbers(&server.buy_cards().await).len(), 2);
    server.stop();
}

#[test]
fn a_directory_that_postgres_cannot_reach_is_named() {
    if OsUser::find_unprivileged().unwrap().is_none() {
        return;
    }
    let data = tempfile::Builder::new().permissions(Permissions::from_mode(0o700)).tempdir().unwrap();
    let error = ManagedPostgres::prepare(&data.path().join("inner")).unwrap_err();
    assert!(matches!(error, ManagedPostgresError::Inaccessible { .. }), "{error}");
    assert!(error.to_string().contains("choose another data_dir"));
}

#[test]
fn the_right_postgres_is_chosen_and_a_missing_one_is_named() {
    let cluster = tempfile::tempdir().unwrap();
    let installed = || vec![(9, PathBuf::from("/nine")), (17, "/seventeen".into()), (15, "/fifteen".into())];
    let error = installation::choose_binaries(Vec::new(), cluster.path()).unwrap_err();
    assert!(error.to_string().contains("install it, for example with `apt-get install postgresql`"));
    assert_eq!(installation::choose_binaries(installed(), cluster.path()).unwrap(), Path::new("/seventeen"));
    std::fs::write(cluster.path().join("PG_VERSION"), "15\n").unwrap();
    assert_eq!(installation::choose_binaries(installed(), cluster.path()).unwrap(), Path::new("/fifteen"));
    std::fs::write(cluster.path().join("PG_VERSION"), "16\n").unwrap();
    let error = installation::choose_binaries(installed(), cluster.path()).unwrap_err();
    assert!(error.to_string().ends_with("was made by PostgreSQL 16, and only 17 is installed: install PostgreSQL 16"));
}

#[tokio::test]
async fn a_refused_hash_is_explained_in_the_log_without_its_secrets() {
    let data = create_data_dir();
    let server = start(serve_command(data.path()));
    let form =
        "u=username&p=hunter2&id=6&pin=97531&quantity=2&email=a@b.c&hash=0123456789012345678901234567890123456789";
    let reply = server.post("card_from_group_sell", form).await;
    assert!(reply.contains("Bad login"), "{reply}");
    let form = "u=username&id=6&pin=97531&quantity=2&email=a@b.c&hash=0123456789012345678901234567890123456789";
    assert!(server.post("card_from_group_sell", form).await.contains("Incorrect hash"));
    let sold = server.buy_cards().await;
    let log = server.log.clone();
    server.stop();
    let log = log.lock().unwrap();
    assert!(log.contains("API : Incorrect hash") && log.contains("\"email, pin, id, quantity\""), "{log}");
    let pins = sold.split("<pin>").skip(1).map(|rest| &rest[..8]);
    for secret in ["hunter2", "97531", "456789", "0123456789012345678901234567890123456789"].into_iter().chain(pins) {
        assert!(!log.contains(secret), "{secret} is in the log: {log}");
    }
}

#[tokio::test]
async fn a_database_of_yours_is_used_instead() {
    let database = postgres::create_database("").await;
    let url = format!("postgres://postgres@localhost/{database}?host={}", postgres::socket_dir().await.display());
    let with_url = || {
        let mut command = serve_command(Path::new("/nowhere"));
        command.env("DATABASE_URL", &url);
        command
    };
    let server = start(with_url());
    assert_eq!(numbers(&server.buy_cards().await), ["1111111000", "1111111001"]);
    server.stop();
    // A second server on it finds everything in place; a schema from the future is refused.
    let server = start(with_url());
    assert_eq!(numbers(&server.buy_cards().await), ["1111111002", "1111111003"]);
    server.stop();
    let mut connection = postgres::connect_options(&database).await.connect().await.unwrap();
    sqlx::raw_sql(
        "update _sqlx_migrations set version = 9999 where version = (select max(version) from _sqlx_migrations)",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    let output = with_url().output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("last used by a newer Mortise (it has migration 9999)"), "{said}");
    for (url, message) in [
        ("mysql://u:hunter2@h/db", "can't be read as postgres://"),
        ("postgres://u:hunter2@127.0.0.1:1/db", "cannot reach the database"),
    ] {
        let output = serve_command(Path::new("/nowhere")).env("DATABASE_URL", url).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains(message) && !said.contains("hunter2"), "{said}");
    }
}

#[test]
fn a_wrong_setting_stops_the_start_in_one_line() {
    let output = Command::new(env!("CARGO_BIN_EXE_mortise")).arg("serve").env("MORTISE_PORT", "1").output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said, "mortise: unknown setting MORTISE_PORT: config/mortise.toml lists all of them\n");
}
