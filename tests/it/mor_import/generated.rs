//! Generated databases with all kinds of invalid data: the report is as expected, and each row is as in MOR, except for
//! what the report says.

use std::collections::BTreeMap;

use sqlx::AssertSqlSafe;

use super::Import;
use super::generator::{AGES, Age, Generated};

/// Columns that MOR does not have.
const OWN_COLUMNS: [&str; 14] = [
    "password_argon2",
    "retired_at",
    "withheld",
    "quarantined_at",
    "serial",
    "kind",
    "reverses",
    "replaces_card",
    "caller_id",
    "reference",
    "balance_change",
    "unblocked_as",
    "tax_included",
    "transferred",
];

/// A table: rows by id, of columns with values.
type Rows = BTreeMap<i64, BTreeMap<String, String>>;

#[tokio::test(flavor = "multi_thread")]
async fn generated_databases_are_reported_and_imported_as_expected() {
    for (seed, age) in AGES.iter().enumerate() {
        check(seed as u64, 9000, age).await;
    }
}

async fn check(seed: u64, size: u32, age: &Age) {
    let generated = Generated::new(seed, size, age);
    assert!(generated.kinds >= 40, "{}", generated.kinds);
    let import = Import::with(&generated.sql).await;
    assert_findings(&import, &generated, seed);
    let decisions = import.file("decisions.tsv");
    std::fs::write(&decisions, &generated.decisions).unwrap();
    let options = ["--charset-repair", "addresses", "--decisions", decisions.to_str().unwrap()];
    let output = import.import_ok(&options);
    assert!(output.stdout.contains("every row and every checksum agrees"), "{output:?}");
    assert_rows(&import, &generated, seed).await;
    let output = import.run(&["reconcile", &import.mor.url()]);
    assert_eq!(output.code, 0, "seed {seed}: {output:?}");
}

fn assert_findings(import: &Import, generated: &Generated, seed: u64) {
    let report = import.file("report.tsv");
    let options = ["--dry-run", "--charset-repair", "addresses", "--report", report.to_str().unwrap()];
    let output = import.import(&options);
    assert!(output.stdout.contains("Nothing was imported"), "{output:?}");
    let report = std::fs::read_to_string(report).unwrap();
    let mut found: Vec<String> = report
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let mut fields: Vec<&str> = line.split('\t').collect();
            if fields[0] == "duplicate_pin" {
                fields[3] = "*";
            }
            fields.join("\t")
        })
        .collect();
    found.sort();
    let only = |these: &[String], others: &[String]| -> Vec<String> {
        these.iter().filter(|line| others.binary_search(line).is_err()).cloned().collect()
    };
    let (more, missing) = (only(&found, &generated.findings), only(&generated.findings, &found));
    assert!(more.is_empty() && missing.is_empty(), "seed {seed}: not expected: {more:#?}\nmissing: {missing:#?}");
    assert_eq!(found.len(), generated.findings.len(), "seed {seed}");
}

/// Compares each row, in both directions, without the code of the import.
async fn assert_rows(import: &Import, generated: &Generated, seed: u64) {
    let mut differences = Vec::new();
    let mut compared = 0;
    for table in
        import.mor.texts("select table_name from information_schema.tables where table_schema = database()").await
    {
        let table = table[0].clone().unwrap();
        let Some(here) = rows_here(import, &table).await else { continue };
        let there = rows_there(import, &table).await;
        for (id, row) in &there {
            let outcome = generated.rows.get(&(table.clone(), *id)).cloned().unwrap_or_default();
            let Some(own) = here.get(id) else {
                if outcome != ["left out"] {
                    differences.push(format!("{table} {id} is missing"));
                }
                continue;
            };
            compared += 1;
            for (column, value) in row.iter().filter(|(column, _)| own.contains_key(*column)) {
                let expected = generated.cells.get(&(table.clone(), *id, column.clone())).unwrap_or(value);
                if expected != "*" && *expected != own[column] {
                    differences.push(format!("{table} {id} {column}: {expected:?}, not {:?}", own[column]));
                }
            }
            if table == "cards" {
                for (state, column) in
                    [("quarantined", "quarantined_at"), ("retired", "retired_at"), ("reserved", "withheld")]
                {
                    if outcome.iter().any(|outcome| outcome == state) != (own[column] != "∅") {
                        differences.push(format!("card {id}: {column} is {}, expected {outcome:?}", own[column]));
                    }
                }
            }
        }
        let added: Vec<&i64> = here.keys().filter(|id| !there.contains_key(id)).collect();
        // A group for the orphans of each of two owners.
        let orphan_groups = if table == "cardgroups" { 2 } else { 0 };
        if added.len() != orphan_groups {
            differences.push(format!("{table}: rows that MOR does not have: {added:?}"));
        }
    }
    assert!(differences.is_empty(), "seed {seed}: {differences:#?}");
    assert!(compared > 20_000, "seed {seed}: {compared}");
}

/// The rows of Mortise; `None` if it does not have the table.
async fn rows_here(import: &Import, table: &str) -> Option<Rows> {
    let mut connection = import.connect().await;
    let exists = sqlx::query_scalar(
        "select exists (select from pg_attribute where attrelid = to_regclass($1) and attname = 'id')",
    );
    if !exists.bind(table).fetch_one(&mut connection).await.unwrap_or(false) {
        return None;
    }
    let sql = format!(
        "select live.id::bigint, field.key, coalesce(field.value, '∅')
         from {table} live, json_each_text(row_to_json(live)) field"
    );
    let cells: Vec<(i64, String, String)> =
        sqlx::query_as(AssertSqlSafe(sql)).fetch_all(&mut connection).await.unwrap();
    let mut rows = Rows::new();
    for (id, column, value) in cells {
        let is_time = value.len() >= 19 && value.as_bytes()[10] == b'T' && value.as_bytes()[4] == b'-';
        let value = if is_time { value.replace('T', " ") } else { number(&value) };
        rows.entry(id).or_default().insert(column, value);
    }
    Some(rows)
}

/// The rows of MOR, with times in UTC.
async fn rows_there(import: &Import, table: &str) -> Rows {
    let columns = import
        .mor
        .texts(&format!(
            "select column_name, data_type from information_schema.columns
             where table_schema = database() and table_name = '{table}' order by ordinal_position"
        ))
        .await;
    let columns: Vec<(String, String)> =
        columns.into_iter().map(|row| (row[0].clone().unwrap(), row[1].clone().unwrap())).collect();
    let columns: Vec<_> = columns.into_iter().filter(|(name, _)| !OWN_COLUMNS.contains(&name.as_str())).collect();
    let id = columns.iter().position(|(name, _)| name == "id").unwrap();
    let expressions: Vec<String> = columns
        .iter()
        .map(|(name, data_type)| if data_type == "bit" { format!("\"{name}\" + 0") } else { format!("\"{name}\"") })
        .collect();
    let rows = import.mor.texts(&format!("select {} from \"{table}\"", expressions.join(", "))).await;
    let rows = rows.into_iter().map(|row| {
        let id = row[id].clone().unwrap().parse().unwrap();
        let cells = columns.iter().zip(row).map(|((name, data_type), value)| {
            let value = match value {
                None => "∅".to_owned(),
                Some(value) if data_type == "datetime" && !name.starts_with("valid_") => to_utc(&value),
                Some(value) => number(&value),
            };
            (name.clone(), value)
        });
        (id, cells.collect())
    });
    rows.collect()
}

/// A number without the zeros at its end; another text as it is.
fn number(text: &str) -> String {
    let is_decimal =
        text.contains('.') && text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'-'));
    if is_decimal { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text.to_owned() }
}

/// A local time of Vilnius as UTC: three hours in summer, else two. The clocks change as in 2014: all times near a
/// change are of that year. A time of the hour that is skipped moves forward; of the hour that is repeated, the first
/// is taken.
fn to_utc(local: &str) -> String {
    let number = |from: usize, to: usize| local[from..to].parse::<u32>().unwrap();
    let (year, month, day, hour) = (number(0, 4), number(5, 7), number(8, 10), number(11, 13));
    if !(1..=12).contains(&month) || day == 0 {
        return local.to_owned();
    }
    let is_summer = ("03-30 04:00:00".."10-26 04:00:00").contains(&&local[5..]);
    let offset = if is_summer { 3 } else { 2 };
    let before = [31, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30];
    let (year, month, day, hour) = match (hour >= offset, day, month) {
        (true, ..) => (year, month, day, hour - offset),
        (false, 1, 1) => (year - 1, 12, 31, hour + 24 - offset),
        (false, 1, _) => (year, month - 1, before[month as usize - 1], hour + 24 - offset),
        (false, ..) => (year, month, day - 1, hour + 24 - offset),
    };
    format!("{year}-{month:02}-{day:02} {hour:02}{}", &local[13..])
}
