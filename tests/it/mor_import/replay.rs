//! After an import, clients get the replies that they got from MOR: recorded cases on an imported base state.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::Value;

use super::Import;
use super::testbed::{Column, create_table};
use crate::conformance::{KNOWN, Outcome, Table, recorded_cases, run_case};
use crate::harness::{postgres, server_on_database};

/// One of so many recorded cases is replayed.
const SAMPLE: usize = 12;

#[tokio::test(flavor = "multi_thread")]
async fn recorded_requests_get_the_recorded_replies_after_an_import() {
    let Some((folder, mut cases)) = recorded_cases() else { return };
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let state: BTreeMap<String, Table> = serde_json::from_str(&read("base_state.json")).unwrap();
    let types: BTreeMap<String, Vec<Column>> = serde_json::from_str(&read("testbed_columns.json")).unwrap();
    let import = Import::with(&base_state_sql(&state, &types)).await;
    // A distributor's cards are in stock in MOR.
    let decisions = import.file("decisions.tsv");
    std::fs::write(&decisions, "distributor\tcards\t*\t\t\tstock\n").unwrap();
    let path = decisions.to_str().unwrap();
    let output = import.run(&["import", &import.mor.url(), "--time-zone", "UTC", "--decisions", path]);
    assert_eq!(output.code, 0, "{output:?}");

    // MOR's state has one card that is used and not sold. The recorded replies contain it.
    let server = import.server().await;
    server.execute("update cards set quarantined_at = null").await;
    server.close().await;

    let known: BTreeMap<String, String> = serde_json::from_str(KNOWN).unwrap();
    cases.retain(|case| !known.contains_key(&case.id));
    cases.sort_by(|one, other| one.id.cmp(&other.id));
    let mut failures = Vec::new();
    let mut count = 0;
    for case in cases.iter().step_by(SAMPLE) {
        let database = postgres::copy_database(&import.database).await;
        let server = server_on_database(&database, &[("dialect", "x7"), ("database_connections", "1")]).await;
        match run_case(case, &server).await {
            Outcome::Same => count += 1,
            Outcome::SetupRefused => {}
            Outcome::Differs(differences) => failures.push(format!("{}: {differences}", case.id)),
        }
        server.close().await;
        postgres::drop_database(&database).await;
    }
    println!("{count} recorded cases are the same after the import");
    assert!(failures.is_empty() && count > 20, "{count} same; {} differ:\n{}", failures.len(), failures.join("\n"));
}

fn base_state_sql(state: &BTreeMap<String, Table>, types: &BTreeMap<String, Vec<Column>>) -> String {
    let mut sql = String::new();
    for (name, table) in state {
        let known = types.get(name);
        let columns: Vec<Column> = (0..table.columns.len())
            .map(|index| {
                let column = &table.columns[index];
                let known = known.and_then(|columns| columns.iter().find(|known| known.name == *column));
                // Only the values tell the type of a column that the testbed does not have.
                let is_number = table.rows.iter().any(|row| row[index].is_i64());
                let r#type = if is_number { "bigint" } else { "varchar(255)" };
                known.cloned().unwrap_or_else(|| Column::nullable(column, r#type))
            })
            .collect();
        sql += &create_table(name, &columns);
        let names: Vec<String> = table.columns.iter().map(|column| format!("`{column}`")).collect();
        for row in &table.rows {
            let values: Vec<String> = row.iter().map(literal).collect();
            writeln!(sql, "insert into `{name}` ({}) values ({});", names.join(", "), values.join(", ")).unwrap();
        }
    }
    sql
}

fn literal(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => u8::from(*value).to_string(),
        Value::Number(number) => number.to_string(),
        other => {
            let text = other.as_str().map_or_else(|| other.to_string(), str::to_owned);
            format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
        }
    }
}
