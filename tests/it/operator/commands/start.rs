//! `mortise config`, `mortise healthcheck`, `mortise migrate`, and the command line itself.

use std::io::{Read, Write};
use std::net::TcpListener;

use sqlx::ConnectOptions;

use super::{CommandOutput, command, run_command, url};
use crate::harness::proxy::PoolerProxy;
use crate::harness::{FIXTURE_SQL, postgres};

fn run(arguments: &[&str], environment: &[(&str, &str)]) -> CommandOutput {
    let mut command = command(arguments);
    command.envs(environment.iter().copied());
    run_command(command, "")
}

#[test]
fn help_covers_all_commands() {
    let help = run(&["--help"], &[]);
    assert_eq!(help.code, 0);
    for command in [
        "serve",
        "migrate",
        "healthcheck",
        "config",
        "doctor",
        "user",
        "right",
        "group",
        "key",
        "setting",
        "currency",
        "cards",
        "sign",
        "explain-hash",
        "audit",
        "report",
        "reseller",
        "mail",
        "backup",
        "restore",
        "console",
    ] {
        assert!(help.stdout.contains(&format!("\n  {command} ")), "{command}: {}", help.stdout);
        let page = run(&[command, "--help"], &[]);
        assert!(page.code == 0 && page.stdout.contains("--json") && page.stdout.contains("--database-url"), "{page:?}");
    }
    assert!(help.stdout.contains("Exit codes:\n  0  success"), "{}", help.stdout);
    // A command's own options come before those of all commands.
    let page = run(&["cards", "export", "--help"], &[]).stdout;
    let position = |text: &str| page.find(text).unwrap_or_else(|| panic!("{text}: {page}"));
    assert!(position("--output") < position("Global options:") && position("Global options:") < position("--json"));
    // Each command has a section in docs/commands.md.
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/commands.md")).unwrap();
    for command in help.stdout.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap().lines() {
        let name = command.split_whitespace().next().unwrap();
        assert!(name == "help" || page.contains(&format!("\n## {name}\n")), "docs/commands.md has no section {name}");
    }
    for (arguments, code) in [(&[][..], 2), (&["fly"], 2), (&["user"], 2), (&["user", "list", "--fly"], 2)] {
        assert_eq!(run(arguments, &[]).code, code, "{arguments:?}");
    }
}

#[test]
fn config_shows_effective_settings_without_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let (file, secret) = (folder.path().join("my.toml"), folder.path().join("url"));
    std::fs::write(&file, "prefix = \"/mor\"\nmax_quantity = 7\n").unwrap();
    std::fs::write(&secret, "postgres://u:hunter2@h/db").unwrap();
    let environment = [("MORTISE_MAX_QUANTITY", "8"), ("DATABASE_URL_FILE", secret.to_str().unwrap())];
    let arguments = ["config", "--config", file.to_str().unwrap(), "--listen", "0.0.0.0:80"];
    let shown = run(&arguments, &environment);
    assert_eq!((shown.code, shown.stderr.as_str()), (0, ""));
    let line = |start: &str| shown.stdout.lines().find(|line| line.starts_with(start)).unwrap().to_owned();
    assert_eq!(
        line("prefix ").split_whitespace().collect::<Vec<_>>(),
        ["prefix", "=", "\"/mor\"", "#", file.to_str().unwrap()]
    );
    assert!(line("max_quantity = 8 ").ends_with("# MORTISE_MAX_QUANTITY"));
    assert!(line("listen = \"0.0.0.0:80\"").ends_with("# --listen"));
    assert!(line("require_password = false").ends_with("# default"));
    assert!(line("# database_url = (hidden)").ends_with("# DATABASE_URL_FILE"));
    assert!(!shown.stdout.contains("hunter2"));
    // The output is a valid settings file.
    let again = folder.path().join("again.toml");
    std::fs::write(&again, &shown.stdout).unwrap();
    let again = run(&["config", "--config", again.to_str().unwrap(), "--json"], &[]);
    let json: serde_json::Value = serde_json::from_str(&again.stdout).unwrap();
    assert_eq!(
        (json["max_quantity"]["value"].as_i64(), json["listen"]["value"].as_str()),
        (Some(8), Some("0.0.0.0:80"))
    );
    let json: serde_json::Value =
        serde_json::from_str(&run(&[&arguments[..], &["--json"]].concat(), &environment).stdout).unwrap();
    assert_eq!(json["database_url"], serde_json::json!({ "value": null, "hidden": true, "from": "DATABASE_URL_FILE" }));
    let broken = run(&["config"], &[("MORTISE_LISTN", "x")]);
    assert_eq!(
        (broken.code, broken.stderr.as_str()),
        (2, "mortise: unknown setting MORTISE_LISTN: config/mortise.toml lists all of them\n")
    );
    let defaults = run(&["config", "--defaults"], &[]).stdout;
    assert_eq!(defaults.trim_end(), mortise::config::DEFAULTS.trim_end());
}

/// An address that is reserved for documentation: a server that gets as far as listening fails.
const UNASSIGNED_ADDRESS: &str = "192.0.2.1:1";

/// Serves one request with this reply; the thread returns the request.
fn serve_one_reply(reply: &'static str) -> (std::net::SocketAddr, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let (mut connection, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            connection.read_exact(&mut byte).unwrap();
            request.extend(byte);
        }
        connection.write_all(reply.as_bytes()).unwrap();
        String::from_utf8(request).unwrap()
    });
    (address, thread)
}

#[test]
fn healthcheck_requests_readiness() {
    let (address, thread) = serve_one_reply("HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nready\n");
    // If the server listens on all addresses, the command connects to the loopback address.
    let all_addresses = format!("0.0.0.0:{}", address.port());
    let ready = run(&["healthcheck"], &[("MORTISE_LISTEN", &all_addresses)]);
    assert_eq!((ready.code, ready.stdout.as_str(), ready.stderr.as_str()), (0, "ready\n", ""));
    assert!(thread.join().unwrap().starts_with("GET /readyz HTTP/1.1\r\nHost: 127.0.0.1:"));
    let (address, _thread) =
        serve_one_reply("HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n\r\nthe database can't be written\n");
    let unready = run(&["healthcheck", "--listen", &address.to_string(), "--json"], &[]);
    let json: serde_json::Value = serde_json::from_str(&unready.stdout).unwrap();
    assert_eq!(
        (unready.code, &json),
        (1, &serde_json::json!({ "ready": false, "status": "503", "body": "the database can't be written" }))
    );
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let failed = run(&["healthcheck", "--listen", &closed.to_string()], &[]);
    assert!(failed.code == 1 && failed.stderr.contains("no answer from http://127.0.0.1:"), "{failed:?}");
}

#[tokio::test]
async fn serve_without_migrate_refuses_an_old_schema() {
    let database = postgres::create_database("").await;
    let mut connection = postgres::connect_options(&database).await.connect().await.unwrap();
    sqlx::raw_sql("drop schema public cascade; create schema public").execute(&mut connection).await.unwrap();
    let url = url(&database).await;
    let on = |arguments: &[&str], environment: &[(&str, &str)]| {
        run(arguments, &[&[("DATABASE_URL", url.as_str())], environment].concat())
    };
    let count = mortise::db::migration_count();
    let refused = on(&["serve", "--listen", UNASSIGNED_ADDRESS], &[("MORTISE_MIGRATE", "off")]);
    let message = format!(
        "mortise: the database schema is not up to date ({count} migrations are missing, from 1 on): \
         run `mortise migrate`\n"
    );
    assert_eq!((refused.code, refused.stderr.as_str()), (4, message.as_str()));
    // Other commands refuse it as well.
    assert_eq!(on(&["user", "list"], &[]).stderr, message);
    let migrated = on(&["migrate"], &[]);
    let last: i64 =
        sqlx::query_scalar("select max(version) from _sqlx_migrations").fetch_one(&mut connection).await.unwrap();
    let message = format!("Migrations 1 to {last} were applied; the schema is up to date.\n");
    assert_eq!((migrated.code, migrated.stdout), (0, message), "{}", migrated.stderr);
    assert_eq!(on(&["migrate"], &[]).stdout, "The schema is up to date.\n");
    assert_eq!(on(&["user", "list", "--json"], &[]).stdout, "[]\n");
    let newer =
        "update _sqlx_migrations set version = 9999 where version = (select max(version) from _sqlx_migrations)";
    sqlx::raw_sql(newer).execute(&mut connection).await.unwrap();
    for arguments in [&["migrate"][..], &["user", "list"]] {
        let output = on(arguments, &[]);
        assert!(
            output.code == 4 && output.stderr.contains("last used by a newer Mortise (it has migration 9999)"),
            "{output:?}"
        );
    }
}

#[tokio::test]
async fn directory_that_cannot_be_written_is_refused() {
    let url = url(&postgres::create_database(FIXTURE_SQL).await).await;
    let environment = [("DATABASE_URL", url.as_str()), ("MORTISE_TEMP_DIR", "/dev/null")];
    let output = run(&["serve", "--listen", UNASSIGNED_ADDRESS], &environment);
    let message = "mortise: cannot write temporary files to /dev/null: Not a directory";
    assert!(output.code == 1 && output.stderr.contains(message), "{output:?}");
    assert!(output.stderr.ends_with(". Set temp_dir to another directory\n"), "{output:?}");
    let doctor = run(&["doctor"], &environment);
    let message = "PROBLEM  temp_dir      cannot write temporary files to /dev/null: Not a directory";
    assert!(doctor.code == 1 && doctor.stdout.contains(message), "{doctor:?}");
    let doctor = run(&["doctor"], &[("DATABASE_URL", url.as_str()), ("MORTISE_MAX_IMPORT_BODY", "1000000000000000")]);
    let message = "warning  temp_dir      ";
    assert!(doctor.stdout.contains(message) && doctor.stdout.contains("2 imports need up to"), "{doctor:?}");
}

/// A pooler that drops the session settings without an error: neither the server nor a command works with the defaults.
#[tokio::test(flavor = "multi_thread")]
async fn pooler_that_drops_session_settings_is_refused() {
    let database = postgres::create_database("").await;
    let proxy = PoolerProxy::new(true).await;
    let url = format!("postgres://postgres@localhost/{database}?host={}&sslmode=disable", proxy.directory().display());
    for arguments in [&["serve", "--listen", UNASSIGNED_ADDRESS][..], &["migrate"], &["user", "list"]] {
        let output = run(arguments, &[("DATABASE_URL", &url)]);
        assert!(
            output.code == 4
                && output.stderr.starts_with("mortise: the database session does not have the settings")
                && output.stderr.contains("lock_timeout is \"0\" instead of \"5000\"")
                && output.stderr.contains("Connect to PostgreSQL itself"),
            "{arguments:?}: {output:?}"
        );
    }
    let doctor = run(&["doctor"], &[("DATABASE_URL", &url)]);
    assert!(
        doctor.code == 1
            && doctor.stdout.contains("PROBLEM  session       the database session does not have the settings")
            && doctor.stdout.contains("statement_timeout is \"0\" instead of \"120000\""),
        "{doctor:?}"
    );
    proxy.set_drops_options(false);
    let output = run(&["user", "list"], &[("DATABASE_URL", &url)]);
    assert_eq!(output.code, 0, "{output:?}");
}

#[tokio::test]
async fn invalid_url_is_exit_code_2() {
    let output = run(&["user", "list"], &[("DATABASE_URL", "mysql://u:hunter2@127.0.0.1/db")]);
    assert!(output.code == 2 && output.stderr.starts_with("mortise: database_url is invalid"), "{output:?}");
    assert!(!output.stderr.contains("hunter2"));
}

#[tokio::test]
async fn unreachable_database_is_exit_code_4() {
    let output = run(&["user", "list"], &[("DATABASE_URL", "postgres://u:hunter2@127.0.0.1:1/db")]);
    assert!(output.code == 4 && output.stderr.starts_with("mortise: cannot reach the database"), "{output:?}");
    assert!(!output.stderr.contains("hunter2"));
}
