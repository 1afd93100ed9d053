//! `mortise config`, `mortise healthcheck`, `mortise migrate`, and the command line itself.

use std::io::{Read, Write};
use std::net::TcpListener;

use sqlx::ConnectOptions;

use super::{Said, command, said, url};
use crate::harness::postgres;

fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Said {
    let mut command = command(arguments);
    command.envs(environment.iter().copied());
    said(command, "")
}

#[test]
fn the_help_is_a_short_manual() {
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
    ] {
        assert!(help.out.contains(&format!("\n  {command} ")), "{command}: {}", help.out);
        let page = run(&[command, "--help"], &[]);
        assert!(page.code == 0 && page.out.contains("--json") && page.out.contains("--database-url"), "{page:?}");
    }
    assert!(help.out.contains("Ends with:\n  0  done"), "{}", help.out);
    // Each has its section in the documents.
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/commands.md")).unwrap();
    for command in help.out.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap().lines() {
        let name = command.split_whitespace().next().unwrap();
        assert!(
            name == "help" || page.contains(&format!("\n## {name}\n")),
            "docs/commands.md has nothing about {name}"
        );
    }
    for (arguments, code) in [(&[][..], 2), (&["fly"], 2), (&["user"], 2), (&["user", "list", "--fly"], 2)] {
        assert_eq!(run(arguments, &[]).code, code, "{arguments:?}");
    }
}

#[test]
fn the_settings_in_effect_are_shown_without_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let (file, secret) = (folder.path().join("my.toml"), folder.path().join("url"));
    std::fs::write(&file, "prefix = \"/mor\"\nmax_quantity = 7\n").unwrap();
    std::fs::write(&secret, "postgres://u:hunter2@h/db").unwrap();
    let environment = [("MORTISE_MAX_QUANTITY", "8"), ("DATABASE_URL_FILE", secret.to_str().unwrap())];
    let arguments = ["config", "--config", file.to_str().unwrap(), "--listen", "0.0.0.0:80"];
    let shown = run(&arguments, &environment);
    assert_eq!((shown.code, shown.err.as_str()), (0, ""));
    let line = |start: &str| shown.out.lines().find(|line| line.starts_with(start)).unwrap().to_owned();
    assert_eq!(
        line("prefix ").split_whitespace().collect::<Vec<_>>(),
        ["prefix", "=", "\"/mor\"", "#", file.to_str().unwrap()]
    );
    assert!(line("max_quantity = 8 ").ends_with("# MORTISE_MAX_QUANTITY"));
    assert!(line("listen = \"0.0.0.0:80\"").ends_with("# --listen"));
    assert!(line("require_password = false").ends_with("# default"));
    assert!(line("# database_url = (hidden)").ends_with("# DATABASE_URL_FILE"));
    assert!(!shown.out.contains("hunter2"));
    // It is a settings' file again.
    let again = folder.path().join("again.toml");
    std::fs::write(&again, &shown.out).unwrap();
    let again = run(&["config", "--config", again.to_str().unwrap(), "--json"], &[]);
    let json: serde_json::Value = serde_json::from_str(&again.out).unwrap();
    assert_eq!(
        (json["max_quantity"]["value"].as_i64(), json["listen"]["value"].as_str()),
        (Some(8), Some("0.0.0.0:80"))
    );
    let json: serde_json::Value =
        serde_json::from_str(&run(&[&arguments[..], &["--json"]].concat(), &environment).out).unwrap();
    assert_eq!(json["database_url"], serde_json::json!({ "value": null, "hidden": true, "from": "DATABASE_URL_FILE" }));
    let broken = run(&["config"], &[("MORTISE_LISTN", "x")]);
    assert_eq!(
        (broken.code, broken.err.as_str()),
        (2, "mortise: unknown setting MORTISE_LISTN: config/mortise.toml lists all of them\n")
    );
    let defaults = run(&["config", "--defaults"], &[]).out;
    assert_eq!(defaults.trim_end(), mortise::config::DEFAULTS.trim_end());
}

/// An address of documentation, where no server comes so far as to listen.
const NOT_OURS: &str = "192.0.2.1:1";

/// A server that answers one request so; what it was asked.
fn answering(reply: &'static str) -> (std::net::SocketAddr, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let asked = std::thread::spawn(move || {
        let (mut connection, _) = listener.accept().unwrap();
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            connection.read_exact(&mut byte).unwrap();
            asked.extend(byte);
        }
        connection.write_all(reply.as_bytes()).unwrap();
        String::from_utf8(asked).unwrap()
    });
    (address, asked)
}

#[test]
fn the_health_of_a_running_server_is_asked_for() {
    let (address, asked) = answering("HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nready\n");
    // Where it listens on every address, it is asked at this machine's own.
    let every = format!("0.0.0.0:{}", address.port());
    let ready = run(&["healthcheck"], &[("MORTISE_LISTEN", &every)]);
    assert_eq!((ready.code, ready.out.as_str(), ready.err.as_str()), (0, "ready\n", ""));
    assert!(asked.join().unwrap().starts_with("GET /readyz HTTP/1.1\r\nHost: 127.0.0.1:"));
    let (address, _asked) =
        answering("HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n\r\nthe database can't be written\n");
    let not = run(&["healthcheck", "--listen", &address.to_string(), "--json"], &[]);
    let json: serde_json::Value = serde_json::from_str(&not.out).unwrap();
    assert_eq!(
        (not.code, &json),
        (1, &serde_json::json!({ "ready": false, "status": "503", "body": "the database can't be written" }))
    );
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let none = run(&["healthcheck", "--listen", &gone.to_string()], &[]);
    assert!(none.code == 1 && none.err.contains("no answer from http://127.0.0.1:"), "{none:?}");
}

#[tokio::test]
async fn a_start_may_leave_the_schema_to_the_operator() {
    let database = postgres::create_database("").await;
    let mut connection = postgres::connect_options(&database).await.connect().await.unwrap();
    sqlx::raw_sql("drop schema public cascade; create schema public").execute(&mut connection).await.unwrap();
    let url = url(&database).await;
    let on = |arguments: &[&str], environment: &[(&str, &str)]| {
        run(arguments, &[&[("DATABASE_URL", url.as_str())], environment].concat())
    };
    let count = mortise::db::migration_sql().count();
    let refused = on(&["serve", "--listen", NOT_OURS], &[("MORTISE_MIGRATE", "off")]);
    let words = format!(
        "mortise: the database's schema isn't up to date ({count} migrations are missing, from 1 on): run `mortise migrate`\n"
    );
    assert_eq!((refused.code, refused.err.as_str()), (4, words.as_str()));
    // Nor does any other command work on it.
    assert_eq!(on(&["user", "list"], &[]).err, words);
    let done = on(&["migrate"], &[]);
    let words = format!("Migrations 1 to {count} were carried out; the schema is up to date.\n");
    assert_eq!((done.code, done.out), (0, words), "{}", done.err);
    assert_eq!(on(&["migrate"], &[]).out, "The schema is up to date.\n");
    assert_eq!(on(&["user", "list", "--json"], &[]).out, "[]\n");
    let newer =
        "update _sqlx_migrations set version = 9999 where version = (select max(version) from _sqlx_migrations)";
    sqlx::raw_sql(newer).execute(&mut connection).await.unwrap();
    for arguments in [&["migrate"][..], &["user", "list"]] {
        let said = on(arguments, &[]);
        assert!(
            said.code == 4 && said.err.contains("last used by a newer Mortise (it has migration 9999)"),
            "{said:?}"
        );
    }
}

#[tokio::test]
async fn a_database_that_is_away_is_code_4() {
    let away = run(&["user", "list"], &[("DATABASE_URL", "postgres://u:hunter2@127.0.0.1:1/db")]);
    assert!(away.code == 4 && away.err.starts_with("mortise: cannot reach the database"), "{away:?}");
    assert!(!away.err.contains("hunter2"));
}
