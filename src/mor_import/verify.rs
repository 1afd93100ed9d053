//! Compares MOR's rows with those of Mortise: numbers of rows, sums of money and checksums of the content, on both
//! sides, down to the column of a row that differs.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use sqlx::{AssertSqlSafe, PgConnection};

use crate::mor_import::checksum::{ComparedTable, Difference, RANGE_LEN, RangeSums};
use crate::mor_import::error::ImportError;
use crate::mor_import::inspect::{Inspection, Table};
use crate::mor_import::source::{self, Source};
use crate::mor_import::sums;
use crate::mor_import::time_zone::TimeZone;

/// Differences that are listed of a table.
const LISTED_MAX: usize = 100;

/// The rows of a table on both sides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "self-explanatory names")]
pub struct TableResult {
    pub table: String,
    pub rows_in_mor: i64,
    /// Without the quarantined ones.
    pub imported: i64,
    pub quarantined: i64,
    pub left_out: i64,
    /// Range of ids, rows, and two checksums.
    pub ranges: Vec<(i64, i64, i64, i64)>,
}

/// The result of a comparison.
#[derive(Debug, Clone, Default, Serialize)]
#[expect(missing_docs, reason = "self-explanatory names")]
pub struct Verification {
    pub tables: Vec<TableResult>,
    pub differences: Vec<Difference>,
}

/// Compares all tables with the rows that the run imported.
pub async fn verify(
    source: &mut Source,
    target: &mut PgConnection,
    inspection: &Inspection,
    zone: &TimeZone,
    run_id: i64,
) -> Result<Verification, ImportError> {
    let mut verification = Verification::default();
    for table in &inspection.tables {
        let compared = compared_table(target, table, run_id).await?;
        let source_sums = compared.source_sums(source).await?;
        let target_sums = compared.target_sums(target, zone, run_id).await?;
        let mut differences = Vec::new();
        for range in differing_ranges(&source_sums, &target_sums) {
            if differences.len() < LISTED_MAX {
                differences.extend(compare_range(source, target, &compared, zone, run_id, range).await?);
            }
        }
        differences.truncate(LISTED_MAX);
        verification.differences.extend(differences);
        verification.differences.extend(sums::compare(source, target, &compared, zone, run_id).await?);
        verification.tables.push(count_rows(target, &compared, &source_sums, &target_sums).await?);
    }
    if verification.tables.iter().all(|table| table.rows_in_mor == 0) {
        return Err(ImportError::refused("MOR's database has no rows: nothing was compared"));
    }
    Ok(verification)
}

async fn compared_table<'a>(
    target: &mut PgConnection,
    table: &'a Table,
    run_id: i64,
) -> Result<ComparedTable<'a>, ImportError> {
    let altered = sqlx::query_scalar(
        r#"select distinct "column" from import_findings
           where run_id = $1 and "table" = $2 and "column" is not null"#,
    );
    let altered = altered.bind(run_id).bind(table.name).fetch_all(&mut *target).await?;
    let left_out = sqlx::query_scalar(
        r#"select distinct id from import_findings where run_id = $1 and "table" = $2 and decision = 'leave-out'"#,
    );
    let left_out = left_out.bind(run_id).bind(table.name).fetch_all(target).await?;
    let columns = table.read_columns().map(|(column, _)| column).collect();
    Ok(ComparedTable { name: table.name, columns, altered, left_out })
}

fn differing_ranges(source: &RangeSums, target: &RangeSums) -> Vec<i64> {
    let ranges: BTreeSet<i64> = source.keys().chain(target.keys()).copied().collect();
    ranges.into_iter().filter(|range| source.get(range) != target.get(range)).collect()
}

async fn count_rows(
    target: &mut PgConnection,
    table: &ComparedTable<'_>,
    source_sums: &RangeSums,
    target_sums: &RangeSums,
) -> Result<TableResult, ImportError> {
    let rows = |sums: &RangeSums| sums.values().map(|(rows, ..)| rows).sum::<i64>();
    let quarantined = match table.name {
        "cards" => {
            sqlx::query_scalar("select count(*) from cards where quarantined_at is not null").fetch_one(target).await?
        }
        _ => 0,
    };
    let left_out = i64::try_from(table.left_out.len()).unwrap_or(i64::MAX);
    Ok(TableResult {
        table: table.name.to_owned(),
        rows_in_mor: rows(source_sums) + left_out,
        imported: rows(target_sums) - quarantined,
        quarantined,
        left_out,
        ranges: source_sums.iter().map(|(range, (rows, first, second))| (*range, *rows, *first, *second)).collect(),
    })
}

/// Compares the rows of a range one by one, and the columns of those that differ.
async fn compare_range(
    source: &mut Source,
    target: &mut PgConnection,
    table: &ComparedTable<'_>,
    zone: &TimeZone,
    run_id: i64,
    range: i64,
) -> Result<Vec<Difference>, ImportError> {
    let (first, last) = (range * RANGE_LEN, (range + 1) * RANGE_LEN - 1);
    let rows = source
        .rows(&format!(
            "select id, md5({}) from {} where {} and id between {first} and {last}",
            table.source_text(),
            source::quote(table.name),
            table.source_condition()
        ))
        .await?;
    let there: BTreeMap<i64, String> = rows
        .into_iter()
        .filter_map(|row| {
            let mut row = row.into_iter().flatten();
            Some((row.next()?.parse().ok()?, row.next()?))
        })
        .collect();
    let sql = format!(
        "select live.id::bigint, md5({}) from {} and live.id between {first} and {last}",
        table.target_text(zone),
        table.target_rows(run_id)
    );
    let rows: Vec<(i64, String)> = sqlx::query_as(AssertSqlSafe(sql)).fetch_all(&mut *target).await?;
    let here: BTreeMap<i64, String> = rows.into_iter().collect();
    let ids: BTreeSet<i64> = there.keys().chain(here.keys()).copied().collect();
    let mut differences = Vec::new();
    for id in ids.into_iter().filter(|id| there.get(id) != here.get(id)).take(LISTED_MAX) {
        let row_difference =
            |text: &str| Difference { table: table.name.to_owned(), id: Some(id), column: None, text: text.to_owned() };
        match (there.contains_key(&id), here.contains_key(&id)) {
            (true, false) => differences.push(row_difference("the row is in MOR only")),
            (false, true) => differences.push(row_difference("the row is in Mortise only")),
            _ => differences.extend(compare_row(source, target, table, zone, run_id, id).await?),
        }
    }
    Ok(differences)
}

async fn compare_row(
    source: &mut Source,
    target: &mut PgConnection,
    table: &ComparedTable<'_>,
    zone: &TimeZone,
    run_id: i64,
    id: i64,
) -> Result<Vec<Difference>, ImportError> {
    let there: Vec<String> = table.columns.iter().map(|column| ComparedTable::source_cell(column)).collect();
    let here: Vec<String> = table.columns.iter().map(|column| table.target_cell(column, zone)).collect();
    let there =
        source.row(&format!("select {} from {} where id = {id}", there.join(", "), source::quote(table.name))).await?;
    let sql = format!("select array[{}] from {} and live.id = {id}", here.join(", "), table.target_rows(run_id));
    let here: Vec<String> = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(target).await?;
    let mut differences = Vec::new();
    for (column, (there, here)) in table.columns.iter().zip(there.into_iter().zip(here)) {
        let there = there.unwrap_or_default();
        if there != here {
            let name = &column.target.name;
            // No secret in an output.
            let text = match name.as_str() {
                "pin" | "password" | "uniquehash" | "value" => "the values differ".to_owned(),
                _ => format!("{} in MOR, {} in Mortise", describe(&there), describe(&here)),
            };
            differences.push(Difference {
                table: table.name.to_owned(),
                id: Some(id),
                column: Some(name.clone()),
                text,
            });
        }
    }
    Ok(differences)
}

fn describe(cell: &str) -> String {
    if cell == "\u{1e}" { "NULL".to_owned() } else { format!("{cell:?}") }
}
