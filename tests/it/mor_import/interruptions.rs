//! An import that is cut off at any step leaves the tables of Mortise empty, or complete; started again, it completes.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};

use super::Import;
use crate::harness::mariadb;
use crate::operator::commands::command;

const STEPS: [&str; 5] = ["inspect", "stage", "validate", "build", "verify"];

/// Two thousand cards, of which every tenth is sold.
const CARDS: &str = "
    insert into cards (number, pin, balance, cardgroup_id, sold)
        select 2000000000 + seq, right(1000000 + seq, 4), 10, 7, seq % 10 = 0 from seq_1_to_2000;
    insert into payments (paymenttype, amount, currency, user_id, card, date_added)
        select 'Card', 10, 'USD', id, 1, '2014-05-01 12:00:00' from cards where sold = 1";

/// What is cut off.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Cut {
    Program,
    PostgresConnection,
    MySqlConnection,
}

/// Starts an import and returns when it has begun a step.
fn start(import: &Import, step: &str) -> (Child, impl BufRead + use<>) {
    let url = import.mor.url();
    let mut command = command(&["import", &url, "--time-zone", "UTC", "--json"]);
    command.env("DATABASE_URL", &import.url).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(format!("{}\n", mariadb::PASSWORD).as_bytes()).unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains(&format!("\"step\":\"{step}\"")) {
        line.clear();
        assert_ne!(output.read_line(&mut line).unwrap(), 0, "the import ended before the step {step}");
    }
    (child, output)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_off_import_can_be_started_again() {
    for cut in [Cut::Program, Cut::PostgresConnection, Cut::MySqlConnection] {
        let import = Import::new(CARDS).await;
        let mut is_complete = false;
        for step in STEPS {
            let (mut child, _output) = start(&import, step);
            match cut {
                Cut::Program => child.kill().unwrap(),
                Cut::PostgresConnection => {
                    let terminate = "select pg_terminate_backend(pid) from pg_stat_activity
                                     where datname = current_database() and application_name = 'mortise import'";
                    let server = import.server().await;
                    server.execute(terminate).await;
                    server.close().await;
                }
                Cut::MySqlConnection => import.mor.cut_connections().await,
            }
            let output = child.wait_with_output().unwrap();
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            let server = import.server().await;
            let [cards] = server.rows("select count(*) from cards").await.try_into().unwrap();
            server.close().await;
            match cards.as_str() {
                "0" if cut == Cut::MySqlConnection && output.status.code() != Some(0) => {
                    assert!(error.contains("the connection to MySQL was lost, nothing was changed"), "{step}: {error}");
                }
                "0" => assert_ne!(output.status.code(), Some(0), "{step}: {error}"),
                // The step ended before the cut.
                cards => {
                    assert_eq!((cards, step), ("2005", "verify"), "{error}");
                    is_complete = true;
                }
            }
        }
        if !is_complete {
            import.import_ok(&[]);
        }
        let output = import.run(&["reconcile", &import.mor.url()]);
        assert_eq!(output.code, 0, "{output:?}");
    }
}
