//! The program with a local PostgreSQL that it manages itself: first start, restart after a kill, clean stop, and
//! errors.

use std::ffi::OsStr;
use std::fs::Permissions;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use mortise::managed_postgres::error::ManagedPostgresError;
use mortise::managed_postgres::installation;
use mortise::managed_postgres::os_user::OsUser;
use mortise::managed_postgres::{ManagedPostgres, STOP_TIMEOUT};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use sqlx::ConnectOptions;

use crate::harness::process::{create_data_dir, installation_env, postmaster_pid, serve_command, start};
use crate::harness::{postgres, with_timeout};

fn card_numbers(reply: &str) -> Vec<&str> {
    reply.split("<number>").skip(1).map(|rest| rest.split('<').next().unwrap()).collect()
}

/// One test for all of this, because each data directory needs a cluster of its own: the example of MOR's
/// documentation, a second server on the same directory, `kill -9`, a clean stop.
#[tokio::test]
async fn restart_after_a_kill_loses_nothing() {
    let data = create_data_dir();
    let first = start(serve_command(data.path()));
    let reply = first.buy_cards().await;
    assert_eq!(card_numbers(&reply), ["1111111000", "1111111001"], "{reply}");
    let pins: Vec<&str> = reply.split("<pin>").skip(1).map(|rest| &rest[..8]).collect();
    let card = |pin, number| {
        format!(
            "    <card>\n      <pin>{pin}</pin>\n      <number>{number}</number>\n      \
             <balance_without_vat>8.403361344537815</balance_without_vat>\n      <currency>USD</currency>\n    \
             </card>\n"
        )
    };
    let cards = card(pins[0], "1111111000") + &card(pins[1], "1111111001");
    assert_eq!(
        reply,
        format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<page>\n  <cards>\n{cards}  </cards>\n</page>\n")
    );

    let second = serve_command(data.path()).output().unwrap();
    assert!(!second.status.success());
    let stderr = String::from_utf8(second.stderr).unwrap();
    assert!(stderr.contains(&format!("another Mortise (process {}) runs on", first.child.id())), "{stderr}");

    let postgres = postmaster_pid(data.path()).unwrap();
    first.kill();
    test_kill_process(postgres).unwrap();
    let adopting = start(serve_command(data.path()));
    assert!(adopting.startup_output.contains("adopting running PostgreSQL"), "{}", adopting.startup_output);
    assert_eq!(card_numbers(&adopting.buy_cards().await), ["1111111002", "1111111003"]);

    // If PostgreSQL was killed too, it recovers automatically.
    adopting.kill();
    kill_process(postgres, Signal::KILL).unwrap();
    let recovered = start(serve_command(data.path()));
    assert_eq!(card_numbers(&recovered.buy_cards().await), ["1111111004", "1111111005"]);

    // A clean stop also stops PostgreSQL. The secret key was printed only at the first start.
    let postgres = postmaster_pid(data.path()).unwrap();
    let output = recovered.stop();
    assert!(!output.contains("456789"), "{output}");
    assert!(test_kill_process(postgres).is_err());
    assert_eq!(postmaster_pid(data.path()), None);

    let log = std::fs::read_to_string(data.path().join("postgres.log")).unwrap();
    assert!(pins.iter().all(|pin| !log.contains(pin)));
}

#[tokio::test]
async fn killed_postgres_is_restarted() {
    let data = create_data_dir();
    let server = start(serve_command(data.path()));
    server.buy_cards().await;
    kill_process(postmaster_pid(data.path()).unwrap(), Signal::KILL).unwrap();
    let mut reply = server.buy_cards().await;
    while card_numbers(&reply).is_empty() {
        assert!(reply.contains("temporarily unavailable") || reply.contains("may have been carried out"), "{reply}");
        reply = server.buy_cards().await;
    }
    server.stop();
}

#[tokio::test]
async fn secret_key_is_printed_at_the_first_start_only() {
    let data = create_data_dir();
    let without_demo = || {
        let mut command = serve_command(data.path());
        command.env_clear().envs(installation_env()).env("MORTISE_DATA_DIR", data.path());
        command.env("MORTISE_LISTEN", "127.0.0.1:0");
        let mut command_without_demo = Command::new(command.get_program());
        let variables = command.get_envs().filter_map(|(name, value)| Some((name, value?)));
        command_without_demo.arg("serve").envs(variables).current_dir("/");
        command_without_demo.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command_without_demo
    };
    let output = start(without_demo()).stop();
    let key = output.trim().strip_prefix("First start. User: admin  API secret key: ").unwrap().to_owned();
    assert_eq!(key.len(), 48, "{key}");
    let restarted = start(without_demo());
    assert!(!restarted.startup_output.contains(&key));
    assert_eq!(restarted.stop(), "");
}

/// Runs only as root, which can start the server as an unprivileged user. If the tests run as another user, all tests
/// here cover this case.
#[tokio::test]
async fn unprivileged_user_can_run_the_server() {
    let Some(os_user) = OsUser::find_unprivileged().unwrap() else { return };
    let data = create_data_dir();
    os_user.chown(&std::fs::File::open(data.path()).unwrap()).unwrap();
    let mut command = serve_command(&data.path().join("deep/er"));
    command.env_remove("MORTISE_DATA_DIR").env("XDG_DATA_HOME", data.path());
    // A copy of the program in a directory that this user can access.
    let program = data.path().join("program");
    std::fs::copy(env!("CARGO_BIN_EXE_mortise"), &program).unwrap();
    let mut user_command = Command::new(&program);
    user_command.args(command.get_args()).envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    user_command.env_remove("MORTISE_DATA_DIR").current_dir("/").uid(os_user.uid()).gid(os_user.gid());
    user_command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let server = start(user_command);
    assert_eq!(card_numbers(&server.buy_cards().await).len(), 2);
    assert!(postmaster_pid(&data.path().join("mortise")).is_some());
    // Without HOME, the data do not go to a directory that is deleted at the next start of the machine.
    let mut homeless = Command::new(&program);
    homeless.args(["group", "list"]).env_clear().current_dir("/").uid(os_user.uid()).gid(os_user.gid());
    let stderr = String::from_utf8(homeless.output().unwrap().stderr).unwrap();
    assert!(stderr.contains("no database in /") && !stderr.contains("/tmp"), "{stderr}");
    // Commands that root runs work with the running server.
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

/// Environment variables of libpq and one that is not UTF-8, a path with special characters, the remains of a killed
/// initdb, and a pid file with the process id of another program.
#[tokio::test]
async fn server_starts_in_an_unusual_environment() {
    let data = create_data_dir();
    let unusual_dir = data.path().join("da ta, \"x\"");
    let mut first = serve_command(&unusual_dir);
    first
        .env("PGPORT", "5433")
        .env("PGSSLMODE", "require")
        .env("PGHOST", "nowhere.test")
        .env("NOT_TEXT", OsStr::from_bytes(b"\xff"));
    std::fs::create_dir_all(unusual_dir.join("postgres.new-1/base")).unwrap();
    let server = start(first);
    assert_eq!(card_numbers(&server.buy_cards().await).len(), 2);
    server.stop();
    assert!(!unusual_dir.join("postgres.new-1").exists());
    std::fs::write(unusual_dir.join("postgres/postmaster.pid"), format!("{}\n", std::process::id())).unwrap();
    let server = start(serve_command(&unusual_dir));
    assert_eq!(card_numbers(&server.buy_cards().await).len(), 2);
    server.stop();
}

/// A secret key that cannot be printed is not stored.
#[test]
fn first_start_that_cannot_print_its_key_creates_no_data() {
    let data = create_data_dir();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = serve_command(data.path()).stdout(writer).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && stderr.contains("cannot create the initial data"), "{stderr}");
    assert_eq!(postmaster_pid(data.path()), None);
    let server = start(serve_command(data.path()));
    assert!(server.stop().contains("First start."));
}

#[tokio::test]
async fn socket_of_a_long_data_dir_is_in_another_directory() {
    let data = create_data_dir();
    let long_dir = data.path().join("x".repeat(120));
    let server = start(serve_command(&long_dir));
    assert_eq!(card_numbers(&server.buy_cards().await).len(), 2);
    server.stop();
}

#[tokio::test]
async fn inaccessible_data_dir_is_reported() {
    if OsUser::find_unprivileged().unwrap().is_none() {
        return;
    }
    let data = tempfile::Builder::new().permissions(Permissions::from_mode(0o700)).tempdir().unwrap();
    let error = ManagedPostgres::prepare(&data.path().join("inner")).await.unwrap_err();
    assert!(matches!(error, ManagedPostgresError::Inaccessible { .. }), "{error}");
    assert!(error.to_string().contains("choose another data_dir"));
}

#[test]
fn binaries_match_the_cluster_version() {
    let cluster = tempfile::tempdir().unwrap();
    let installed = || vec![(9, PathBuf::from("/nine")), (17, "/seventeen".into()), (15, "/fifteen".into())];
    let error = installation::choose_binaries(Vec::new(), cluster.path()).unwrap_err();
    assert!(error.to_string().contains("install it, for example with `apt-get install postgresql`"));
    assert_eq!(installation::choose_binaries(installed(), cluster.path()).unwrap(), Path::new("/seventeen"));
    std::fs::write(cluster.path().join("PG_VERSION"), "15\n").unwrap();
    assert_eq!(installation::choose_binaries(installed(), cluster.path()).unwrap(), Path::new("/fifteen"));
    std::fs::write(cluster.path().join("PG_VERSION"), "16\n").unwrap();
    let error = installation::choose_binaries(installed(), cluster.path()).unwrap_err();
    assert!(
        error.to_string().ends_with("was created by PostgreSQL 16, and only 17 is installed: install PostgreSQL 16")
    );
}

#[tokio::test]
async fn incorrect_hash_is_logged_without_secrets() {
    let data = create_data_dir();
    let server = start(serve_command(data.path()));
    let form =
        "u=username&p=hunter2&id=6&pin=97531&quantity=2&email=a@b.c&hash=0123456789012345678901234567890123456789";
    let reply = server.post("card_from_group_sell", form).await;
    assert!(reply.contains("Bad login"), "{reply}");
    let form = "u=username&id=6&pin=97531&quantity=2&email=a@b.c&hash=0123456789012345678901234567890123456789";
    assert!(server.post("card_from_group_sell", form).await.contains("Incorrect hash"));
    let reply = server.buy_cards().await;
    let log = server.log.clone();
    server.stop();
    let log = log.lock().unwrap();
    assert!(log.contains("API : Incorrect hash") && log.contains("\"email, pin, id, quantity\""), "{log}");
    let pins = reply.split("<pin>").skip(1).map(|rest| &rest[..8]);
    for secret in ["hunter2", "97531", "456789", "0123456789012345678901234567890123456789"].into_iter().chain(pins) {
        assert!(!log.contains(secret), "{secret} is in the log: {log}");
    }
}

#[tokio::test]
async fn database_url_replaces_the_managed_postgres() {
    let database = postgres::create_database("").await;
    let url = format!("postgres://postgres@localhost/{database}?host={}", postgres::socket_dir().await.display());
    let with_url = || {
        let mut command = serve_command(Path::new("/nowhere"));
        command.env("DATABASE_URL", &url);
        command
    };
    let server = start(with_url());
    assert_eq!(card_numbers(&server.buy_cards().await), ["1111111000", "1111111001"]);
    server.stop();
    // A second server uses the schema and the data of the first. A schema of a newer version is refused.
    let server = start(with_url());
    assert_eq!(card_numbers(&server.buy_cards().await), ["1111111002", "1111111003"]);
    server.stop();
    let mut connection = postgres::connect_options(&database).await.connect().await.unwrap();
    sqlx::raw_sql(
        "update _sqlx_migrations set version = 9999 where version = (select max(version) from _sqlx_migrations)",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    let output = with_url().output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("last used by a newer Mortise (it has migration 9999)"), "{stderr}");
    for (url, message) in [
        ("mysql://u:hunter2@h/db", "expected postgres://"),
        ("postgres://u:hunter2@127.0.0.1:1/db", "cannot reach the database"),
    ] {
        let output = serve_command(Path::new("/nowhere")).env("DATABASE_URL", url).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && stderr.contains(message) && !stderr.contains("hunter2"), "{stderr}");
    }
}

#[test]
fn unknown_setting_is_reported_in_one_line() {
    let output = Command::new(env!("CARGO_BIN_EXE_mortise")).arg("serve").env("MORTISE_PORT", "1").output().unwrap();
    assert!(!output.status.success());
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(stderr, "mortise: unknown setting MORTISE_PORT: config/mortise.toml lists all of them\n");
}

/// PostgreSQL does not end its stop, because one of its processes does not. It is stopped without a checkpoint.
#[tokio::test]
async fn postgres_that_does_not_stop_loses_nothing() {
    let data = create_data_dir();
    let managed = ManagedPostgres::prepare(data.path()).await.unwrap();
    managed.start().await.unwrap();
    let mut connection = managed.connect_options().connect().await.unwrap();
    sqlx::raw_sql("create table kept as select 1 as id").execute(&mut connection).await.unwrap();
    let checkpointer = "select pid from pg_stat_activity where backend_type = 'checkpointer'";
    let checkpointer: i32 = sqlx::query_scalar(checkpointer).fetch_one(&mut connection).await.unwrap();
    kill_process(Pid::from_raw(checkpointer).unwrap(), Signal::STOP).unwrap();
    let postmaster = postmaster_pid(data.path()).unwrap();
    with_timeout("the stop", managed.stop(Duration::from_millis(1))).await;
    assert!(test_kill_process(postmaster).is_err());

    let managed = ManagedPostgres::prepare(data.path()).await.unwrap();
    with_timeout("the start", managed.start()).await.unwrap();
    let mut connection = managed.connect_options().connect().await.unwrap();
    let kept: i32 = sqlx::query_scalar("select id from kept").fetch_one(&mut connection).await.unwrap();
    assert_eq!(kept, 1);
    managed.stop(STOP_TIMEOUT).await;
}
