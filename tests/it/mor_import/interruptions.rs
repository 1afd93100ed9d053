//! An import that is cut off at any moment leaves the tables of Mortise empty, or complete; started again, it completes
//! with the same result.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions};

use super::generator::{AGES, Generated};
use super::{BASICS, Import, X7_SCHEMA};
use crate::harness::mariadb::{self, Mor};
use crate::harness::process::create_data_dir;
use crate::harness::{postgres, with_timeout};
use crate::operator::commands::{command, run_command, url};

const STEPS: [&str; 5] = ["inspect", "stage", "validate", "build", "verify"];
const CUTS: [Cut; 3] = [Cut::Program, Cut::PostgresConnection, Cut::MySqlConnection];
const CUT_COUNT: usize = 20;

/// What is cut off.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Cut {
    Program,
    PostgresConnection,
    MySqlConnection,
}

const CUT_POSTGRES: &str = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                            where datname = current_database() and application_name = 'mortise import'";
/// The rows of all tables. Cards and groups have the time of the import in some columns.
const CONTENT: &str = "
    select md5(string_agg(content, ' ' order by name)) from (
        select 'users' as name, md5(string_agg(row::text, ' ' order by id)) as content from users row
        union all
        select 'cards', md5(string_agg((to_jsonb(row) - 'quarantined_at' - 'retired_at')::text
            || (quarantined_at is null) || (retired_at is null), ' ' order by id)) from cards row
        union all
        select 'cardgroups', md5(string_agg((to_jsonb(row) - 'created_at' - 'valid_from' - 'valid_till')::text, ' ' order by id))
        from cardgroups row
        union all
        select 'payments', md5(string_agg(row::text, ' ' order by id)) from payments row
        union all
        select 'actions', md5(string_agg(row::text, ' ' order by id)) from actions row
        union all
        select 'conflines', md5(string_agg(row::text, ' ' order by id)) from conflines row
        union all
        select 'cclineitems', md5(string_agg(row::text, ' ' order by id)) from cclineitems row
        union all
        select 'vouchers', md5(string_agg(row::text, ' ' order by id)) from vouchers row
        union all
        select 'currencies', md5(string_agg(row::text, ' ' order by id)) from currencies row
        union all
        select 'card_stock', md5(string_agg(row::text, ' ' order by card_id)) from card_stock row
        union all
        select 'findings', md5(string_agg(concat_ws(' ', rule, \"table\", id, \"column\", decision), ',' order by rule, \"table\", id,
            \"column\")) from import_findings
    ) tables";

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_is_cut_off_at_random_moments_has_the_same_result() {
    let generated = Generated::new(7, 2000, &AGES[0]);
    let mut import = Import::with(&generated.sql).await;
    let decisions = import.file("decisions.tsv");
    std::fs::write(&decisions, &generated.decisions).unwrap();
    let options = ["--decisions", decisions.to_str().unwrap()];
    let mut random = fastrand::Rng::with_seed(20);
    let mut results = Vec::new();
    let mut is_reused = false;
    for number in 0..CUT_COUNT {
        let (cut, step) = (CUTS[number % CUTS.len()], STEPS[random.usize(0..STEPS.len())]);
        let (mut child, mut output) = import.start(step, &options);
        // The progress of the step, up to a random line.
        let mut line = String::new();
        for _ in 0..random.usize(0..30) {
            line.clear();
            if output.read_line(&mut line).unwrap() == 0 || line.contains("\"step\"") {
                break;
            }
            is_reused |= line.contains("are used again");
        }
        match cut {
            Cut::Program => child.kill().unwrap(),
            Cut::PostgresConnection => import.execute(CUT_POSTGRES).await,
            Cut::MySqlConnection => import.mor.cut_connections().await,
        }
        let ended = child.wait_with_output().unwrap();
        let error = String::from_utf8_lossy(&ended.stderr).into_owned();
        let cards: i64 = import.value("select count(*) from cards").await;
        // The last step may have ended before the cut.
        if cards > 0 {
            results.push(import.value::<String>(CONTENT).await);
            import.next_database().await;
        } else {
            assert_ne!(ended.status.code(), Some(0), "{number} {step} {cut:?}: {error}");
            if cut == Cut::MySqlConnection {
                assert!(error.contains("the connection to MySQL was lost, nothing was changed"), "{number}: {error}");
            }
        }
    }
    let output = import.run(&[&["import", &import.mor.url(), "--time-zone", "UTC"], &options[..]].concat());
    assert_eq!(output.code, 0, "{output:?}");
    let completed: String = import.value(CONTENT).await;
    import.next_database().await;
    let output = import.run(&[&["import", &import.mor.url(), "--time-zone", "UTC"], &options[..]].concat());
    assert_eq!(output.code, 0, "{output:?}");
    let uninterrupted: String = import.value(CONTENT).await;
    assert!(results.iter().chain([&completed]).all(|result| *result == uninterrupted), "{results:?} {uninterrupted}");
    println!("{} imports ended before the cut; staged rows used again: {is_reused}", results.len());
    let output = import.run(&["reconcile", &import.mor.url()]);
    assert_eq!(output.code, 0, "{output:?}");
}

/// The process of PostgreSQL that serves the import is killed: PostgreSQL restarts, and empties the unlogged tables
/// that have the staged rows.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_of_postgres_loses_nothing() {
    let mor = Mor::new(&[X7_SCHEMA, BASICS].concat()).await;
    let data = create_data_dir();
    let import = |options: &[&str]| {
        let mut command = command(&[&["import", &mor.url(), "--time-zone", "UTC"], options].concat());
        command.env_remove("DATABASE_URL").env("MORTISE_DATA_DIR", data.path());
        command
    };
    let mut child = import(&["--json"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    writeln!(child.stdin.take().unwrap(), "{}", mariadb::PASSWORD).unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("\"step\":\"inspect\"")));
    let password = std::fs::read_to_string(data.path().join("password")).unwrap();
    let options = PgConnectOptions::new_without_pgpass().socket(data.path().join("run")).username("mortise");
    let options = options.database("mortise").password(password.trim()).disable_statement_logging();
    // The import waits for this lock when it builds the tables.
    let mut connection = options.connect().await.unwrap();
    sqlx::raw_sql("begin; lock table cards in access share mode").execute(&mut connection).await.unwrap();
    let waiting =
        "select pid from pg_stat_activity where application_name = 'mortise import' and wait_event_type = 'Lock'";
    let find = async {
        loop {
            if let Some(pid) = sqlx::query_scalar(waiting).fetch_optional(&mut connection).await.unwrap() {
                return pid;
            }
        }
    };
    let pid: i32 = with_timeout("the import that waits", find).await;
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    assert_ne!(child.wait().unwrap().code(), Some(0));

    let output = run_command(import(&[]), mariadb::PASSWORD);
    assert!(output.code == 0 && output.stdout.contains("every row and every checksum agrees"), "{output:?}");
    assert!(!output.stderr.contains("are used again"), "{output:?}");
    let again = run_command(import(&[]), mariadb::PASSWORD);
    assert!(again.code == 0 && again.stdout.contains("Nothing has changed since the import"), "{again:?}");
}

/// The staging was complete when the program was killed.
#[tokio::test(flavor = "multi_thread")]
async fn staged_rows_are_used_again_while_mor_has_the_same_rows() {
    let import = Import::with(&[X7_SCHEMA, BASICS, "update cards set name = 'a\\0b' where id = 101"].concat()).await;
    let kill = async || {
        let (mut child, _output) = import.start("validate", &[]);
        child.kill().unwrap();
        child.wait().unwrap();
    };
    kill().await;
    let output = import.run(&["doctor"]);
    assert!(output.stdout.contains("the schema mor_import of an unfinished import has a copy"), "{output:?}");
    let output = import.import(&["--dry-run", "--time-zone", "UTC"]);
    assert!(output.stderr.contains("are used again: MOR has the same rows"), "{output:?}");
    assert!(output.stdout.contains("nul_byte in cards: 1"), "{output:?}");
    // The run was complete: its staged rows are gone.
    let output = import.import(&["--dry-run", "--time-zone", "UTC"]);
    assert!(!output.stderr.contains("are used again"), "{output:?}");
    // Another row of MOR, another option, and tables that a crash of PostgreSQL has emptied.
    for change in ["update cards set name = 'new' where id = 103", "", "truncate mor_import.cards"] {
        kill().await;
        match change {
            "" => {}
            truncate if truncate.starts_with("truncate") => import.execute(truncate).await,
            update => import.mor.execute(update).await,
        }
        let zone = if change.is_empty() { "Europe/Vilnius" } else { "UTC" };
        let output = import.import(&["--dry-run", "--time-zone", zone]);
        assert!(output.code == 0 && !output.stderr.contains("are used again"), "{change}: {output:?}");
    }
    kill().await;
    let output = import.import_ok(&["--time-zone", "UTC"]);
    assert!(output.stderr.contains("are used again"), "{output:?}");
    let server = import.server().await;
    server.assert_rows("select name from cards where id in (101, 103) order by id", &["a\u{fffd}b", "new"]).await;
}

impl Import {
    /// The value of a query.
    async fn value<T>(&self, query: &str) -> T
    where
        T: sqlx::Type<sqlx::Postgres> + for<'r> sqlx::Decode<'r, sqlx::Postgres> + Send + Unpin,
    {
        let mut connection = self.connect().await;
        sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_one(&mut connection).await.unwrap()
    }

    /// Continues with a new database of Mortise.
    async fn next_database(&mut self) {
        self.database = postgres::create_database("").await;
        self.url = url(&self.database).await;
    }
}
