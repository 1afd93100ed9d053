//! What the program inherits from the process that starts it: environment variables of libpq and of the locale, and
//! ignored signals.

use std::collections::BTreeSet;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{ConnectOptions, PgConnection};

use crate::harness::postgres;
use crate::harness::process::{create_data_dir, postmaster_pid, serve_command, start};

/// Variables with which a session, or one of PostgreSQL's programs, would fail or work differently.
const HOSTILE: [(&str, &str); 17] = [
    ("PGOPTIONS", "-c default_transaction_read_only=on -c search_path=nowhere"),
    ("PGAPPNAME", "hostile"),
    ("PGHOST", "nowhere.test"),
    ("PGHOSTADDR", "192.0.2.1"),
    ("PGPORT", "5433"),
    ("PGUSER", "hostile"),
    ("PGPASSWORD", "hostile"),
    ("PGDATABASE", "hostile"),
    ("PGSSLMODE", "verify-full"),
    ("PGSERVICE", "hostile"),
    ("PGPASSFILE", "/dev/zero"),
    ("PGDATA", "/nowhere"),
    ("PGTZ", "Asia/Tokyo"),
    ("TZ", "Asia/Tokyo"),
    ("LC_ALL", "xx_XX.invalid"),
    ("LC_MESSAGES", "de_DE.UTF-8"),
    ("LANG", "tr_TR.UTF-8"),
];

#[tokio::test]
async fn local_postgres_ignores_the_environment() {
    let data = create_data_dir();
    let mut command = serve_command(data.path());
    command.envs(HOSTILE);
    let server = start(command);
    let reply = server.buy_cards().await;
    assert_eq!(reply.matches("<number>").count(), 2, "{reply}");

    let postmaster = postmaster_pid(data.path()).unwrap();
    let environment = std::fs::read(format!("/proc/{}/environ", postmaster.as_raw_nonzero())).unwrap();
    let environment = String::from_utf8_lossy(&environment);
    let names: BTreeSet<_> = environment.split('\0').filter_map(|variable| Some(variable.split_once('=')?.0)).collect();
    let allowed = BTreeSet::from(["LC_ALL", "LD_LIBRARY_PATH", "PATH"]);
    assert!(names.is_subset(&allowed) && environment.contains("LC_ALL=C\0"), "{names:?}");

    let password = std::fs::read_to_string(data.path().join("password")).unwrap();
    let options = PgConnectOptions::new_without_pgpass()
        .socket(data.path().join("run"))
        .ssl_mode(PgSslMode::Disable)
        .username("mortise")
        .password(password.trim())
        .database("mortise");
    let mut connection = options.connect().await.unwrap();
    let sessions = rows(
        &mut connection,
        "select distinct application_name from pg_stat_activity where usename = 'mortise' and pid <> pg_backend_pid()",
    );
    let sessions = sessions.await;
    let is_own = |name: &String| name.starts_with("mortise");
    assert!(!sessions.is_empty() && sessions.iter().all(is_own), "{sessions:?}");
    assert_ne!(rows(&mut connection, "show log_timezone").await, ["Asia/Tokyo"]);
    // Commands connect to the PostgreSQL of the server.
    let mut list = Command::new(env!("CARGO_BIN_EXE_mortise"));
    list.args(["user", "list"]).env("MORTISE_DATA_DIR", data.path()).env_remove("DATABASE_URL").envs(HOSTILE);
    let output = list.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    server.stop();
}

/// What the URL leaves out comes from libpq's variables, except PGOPTIONS.
#[tokio::test]
async fn variables_complete_the_database_url() {
    let database = postgres::create_database("").await;
    let with_url = |url: &str, variables: &[(&str, &str)]| {
        let mut command = serve_command("/nowhere".as_ref());
        command.env("DATABASE_URL", url).envs(variables.iter().copied());
        command
    };
    let socket = postgres::socket_dir().await;
    let variables = [
        ("PGHOST", socket.to_str().unwrap()),
        ("PGUSER", "postgres"),
        ("PGDATABASE", database.as_str()),
        ("PGOPTIONS", "-c default_transaction_read_only=on"),
        ("PGAPPNAME", "hostile"),
    ];
    let server = start(with_url("postgres://", &variables));
    let reply = server.buy_cards().await;
    assert_eq!(reply.matches("<number>").count(), 2, "{reply}");
    let mut connection = postgres::connect_options(&database).await.connect().await.unwrap();
    let hostile = "select pid::text from pg_stat_activity where application_name = 'hostile'";
    assert_eq!(rows(&mut connection, hostile).await, [""; 0]);
    server.stop();
    for (name, value) in [("PGSSLMODE", "verify_full"), ("PGPORT", "x")] {
        let output = with_url("postgres://postgres@127.0.0.1:1/none", &[(name, value)]).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.ends_with(&format!("mortise: the environment variable {name} is invalid\n")), "{stderr}");
    }
}

async fn rows(connection: &mut PgConnection, query: &'static str) -> Vec<String> {
    sqlx::query_scalar(query).fetch_all(connection).await.unwrap()
}

/// `nohup` ignores SIGHUP, and a shell script SIGINT for commands in the background: both stay ignored. With SIGCHLD
/// ignored, the exit status of initdb would be lost.
#[tokio::test]
async fn ignored_signals_stay_ignored() {
    let data = create_data_dir();
    let direct = serve_command(data.path());
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "trap '' HUP INT CHLD PIPE; exec \"$0\" \"$@\""]).arg(direct.get_program());
    command.args(direct.get_args()).envs(direct.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env_remove("DATABASE_URL").current_dir("/").stdin(std::process::Stdio::null());
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let server = start(command);
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    let ignored = u64::from_str_radix(ignored.trim(), 16).unwrap();
    for signal in [Signal::HUP, Signal::INT] {
        assert_eq!(ignored >> (signal.as_raw() - 1) & 1, 1, "{signal:?}");
        kill_process(Pid::from_child(&server.child), signal).unwrap();
    }
    kill_process(postmaster_pid(data.path()).unwrap(), Signal::KILL).unwrap();
    let mut reply = server.buy_cards().await;
    while !reply.contains("<number>") {
        assert!(reply.contains("temporarily unavailable") || reply.contains("may have been carried out"), "{reply}");
        reply = server.buy_cards().await;
    }
    server.stop();
}
