//! Compares MOR's rows with those of Mortise: numbers of rows, sums of money and checksums of the content, on both
//! sides, down to the column of a row that differs.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use sqlx::{AssertSqlSafe, PgConnection};

use crate::mor_import::checksum::{ComparedTable, Difference, RANGE_LEN, RangeSums, Side};
use crate::mor_import::error::ImportError;
use crate::mor_import::imported_run::{ImportedRun, TableResult};
use crate::mor_import::inspect::{Inspection, Table};
use crate::mor_import::secret::{self, Digests};
use crate::mor_import::source::{self, Source};
use crate::mor_import::sums;

/// The text of a cell that is NULL.
const NULL: &str = "\u{1e}";
/// Differences that are listed of a table.
const LISTED_MAX: usize = 100;

/// The result of a comparison.
#[derive(Debug, Clone, Default, Serialize)]
#[expect(missing_docs, reason = "self-explanatory names")]
pub struct Verification {
    pub tables: Vec<TableResult>,
    pub differences: Vec<Difference>,
}

/// Compares all tables with the rows that the run imported.
///
/// # Errors
///
/// If a connection is lost, or MOR has no rows at all.
pub async fn verify(
    source: &mut Source,
    target: &mut PgConnection,
    inspection: &Inspection,
    run: &ImportedRun,
) -> Result<Verification, ImportError> {
    let mut verification = Verification::default();
    for table in &inspection.tables {
        let compared = compared_table(target, table, run).await?;
        let (source_sums, target_sums) =
            tokio::try_join!(compared.source_sums(source), compared.target_sums(target, &run.zone, run.id))?;
        let imported = run.tables.iter().find(|imported| imported.table == table.name).map(TableResult::sums);
        let mut differences = Vec::new();
        for range in differing_ranges(&source_sums, &target_sums) {
            if differences.len() < LISTED_MAX {
                let changed_in = imported.as_ref().map(|imported| side(range, imported, &source_sums, &target_sums));
                let mut found = compare_range(source, target, &compared, run, range).await?;
                if found.is_empty() {
                    found.push(range_difference(table.name, range));
                }
                differences.extend(found.into_iter().map(|difference| Difference { changed_in, ..difference }));
            }
        }
        differences.truncate(LISTED_MAX);
        verification.differences.extend(differences);
        verification.differences.extend(sums::compare(source, target, &compared, &run.zone, run.id).await?);
        verification.tables.push(count_rows(source, target, &compared, &source_sums, &target_sums).await?);
    }
    if verification.tables.iter().all(|table| table.rows_in_mor == 0) {
        return Err(ImportError::refused("MOR's database has no rows: nothing was compared"));
    }
    Ok(verification)
}

/// The difference of a range whose checksums differ, although no row does.
fn range_difference(table: &str, range: i64) -> Difference {
    let (first, last) = (range * RANGE_LEN, (range + 1) * RANGE_LEN - 1);
    let text = format!("the checksums of the rows with the ids {first} to {last}, or near them, differ");
    Difference { table: table.to_owned(), id: None, column: None, text, changed_in: None }
}

/// On which side a range of ids has changed since it was equal on both.
fn side(range: i64, imported: &RangeSums, source: &RangeSums, target: &RangeSums) -> Side {
    match (source.get(&range) == imported.get(&range), target.get(&range) == imported.get(&range)) {
        (true, _) => Side::Mortise,
        (_, true) => Side::Mor,
        (false, false) => Side::Both,
    }
}

async fn compared_table<'a>(
    target: &mut PgConnection,
    table: &'a Table,
    run: &ImportedRun,
) -> Result<ComparedTable<'a>, ImportError> {
    let altered = sqlx::query_scalar(
        r#"select distinct "column" from import_findings
           where run_id = $1 and "table" = $2 and "column" is not null"#,
    );
    let altered = altered.bind(run.id).bind(table.name).fetch_all(&mut *target).await?;
    let left_out = sqlx::query_as(
        r#"select min(id), max(id)
           from (
               select id, id - row_number() over (order by id) as island
               from (
                   select distinct id from import_findings
                   where run_id = $1 and "table" = $2 and decision = 'leave-out'
               ) finding
           ) finding
           group by island order by 1"#,
    );
    let left_out = left_out.bind(run.id).bind(table.name).fetch_all(target).await?;
    let columns = table.read_columns().map(|(column, _)| column).collect();
    let history = run.history.as_deref().and_then(|from| table.history_condition(from));
    Ok(ComparedTable { name: table.name, columns, altered, left_out, history })
}

fn differing_ranges(source: &RangeSums, target: &RangeSums) -> Vec<i64> {
    let ranges: BTreeSet<i64> = source.keys().chain(target.keys()).copied().collect();
    ranges.into_iter().filter(|range| source.get(range) != target.get(range)).collect()
}

async fn count_rows(
    source: &mut Source,
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
    let old_rows = match &table.history {
        None => 0,
        Some(condition) => {
            let sql = format!("select count(*) from {} where not ({condition})", source::quote(table.name));
            let count = source.row(&sql).await?.into_iter().next().flatten();
            let count = count.and_then(|count| count.parse().ok());
            count.ok_or_else(|| ImportError::refused(format!("MySQL did not count the old rows of {}", table.name)))?
        }
    };
    let left_out = table.left_out_rows() + old_rows;
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
    run: &ImportedRun,
    range: i64,
) -> Result<Vec<Difference>, ImportError> {
    let (first, last) = (range * RANGE_LEN, (range + 1) * RANGE_LEN - 1);
    let rows = source
        .rows(&format!(
            "select id, md5({}) from {} where id between {first} and {last} and {}",
            table.source_text(),
            source::quote(table.name),
            table.history.as_deref().unwrap_or("true")
        ))
        .await?;
    let there: BTreeMap<i64, String> = rows
        .into_iter()
        .filter_map(|row| {
            let mut row = row.into_iter().flatten();
            Some((row.next()?.parse().ok()?, row.next()?))
        })
        .filter(|(id, _)| !table.is_left_out(*id))
        .collect();
    let sql = format!(
        "select live.id::bigint, md5({}) from {} and live.id between {first} and {last}",
        table.target_text(&run.zone),
        table.target_rows(run.id)
    );
    let rows: Vec<(i64, String)> = sqlx::query_as(AssertSqlSafe(sql)).fetch_all(&mut *target).await?;
    let here: BTreeMap<i64, String> = rows.into_iter().collect();
    let ids: BTreeSet<i64> = there.keys().chain(here.keys()).copied().collect();
    let mut differences = Vec::new();
    for id in ids.into_iter().filter(|id| there.get(id) != here.get(id)).take(LISTED_MAX) {
        let row_difference = |text: &str| {
            let (table, text) = (table.name.to_owned(), text.to_owned());
            Difference { table, id: Some(id), column: None, text, changed_in: None }
        };
        match (there.contains_key(&id), here.contains_key(&id)) {
            (true, false) => differences.push(row_difference("the row is in MOR only")),
            (false, true) => differences.push(row_difference("the row is in Mortise only")),
            _ => differences.extend(compare_row(source, target, table, run, id).await?),
        }
    }
    Ok(differences)
}

async fn compare_row(
    source: &mut Source,
    target: &mut PgConnection,
    table: &ComparedTable<'_>,
    run: &ImportedRun,
    id: i64,
) -> Result<Vec<Difference>, ImportError> {
    let there: Vec<String> = table.columns.iter().map(|column| ComparedTable::source_cell(column)).collect();
    let here: Vec<String> = table.columns.iter().map(|column| table.target_cell(column, &run.zone)).collect();
    let there =
        source.row(&format!("select {} from {} where id = {id}", there.join(", "), source::quote(table.name))).await?;
    let sql = format!("select array[{}] from {} and live.id = {id}", here.join(", "), table.target_rows(run.id));
    let here: Vec<String> = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(target).await?;
    let digests = Digests::new().map_err(|error| ImportError::refused(format!("cannot read random bytes: {error}")))?;
    let mut differences = Vec::new();
    for (column, (there, here)) in table.columns.iter().zip(there.into_iter().zip(here)) {
        let there = there.unwrap_or_default();
        if there != here {
            let name = &column.target.name;
            let describe = |cell: &str| match cell {
                NULL => "NULL".to_owned(),
                secret if secret::is_secret(table.name, name) => digests.digest(secret),
                cell => format!("{cell:?}"),
            };
            let text = format!("{} in MOR, {} in Mortise", describe(&there), describe(&here));
            differences.push(Difference {
                table: table.name.to_owned(),
                id: Some(id),
                column: Some(name.clone()),
                text,
                changed_in: None,
            });
        }
    }
    Ok(differences)
}
