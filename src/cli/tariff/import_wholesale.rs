//! `mortise tariff import` for wholesale rates: adds the rates of a CSV file, or changes their prices.

use std::collections::HashMap;

use bigdecimal::BigDecimal;
use csv::StringRecord;
use serde::Serialize;
use serde_json::json;
use sqlx::PgConnection;

use super::csv_lines::CsvLines;
use super::wholesale_csv::WholesaleLine;
use super::{RefusedLine, Tariff, begin_long_import};
use crate::cli::database::with_database;
use crate::cli::{CommandError, Report, author, progress_bar};
use crate::config::Config;
use crate::spool::Spooled;
use crate::store::change_log::{Change, Target, What};

/// Lines in one statement.
const BATCH_LINES: usize = 1000;

/// The outcome of an import.
#[derive(Debug, Default, Serialize)]
struct Outcome {
    added: u64,
    changed: u64,
    unchanged: u64,
    refused: Vec<RefusedLine>,
}

/// Runs the command, in one transaction: if a line is refused, nothing is written.
pub(super) async fn run(
    file: &Spooled,
    bytes: u64,
    tariff_id: i64,
    dry_run: bool,
    config: &Config,
) -> Result<Report, CommandError> {
    let outcome = with_database(config, async |pool| {
        let mut transaction = pool.begin().await?;
        begin_long_import(&mut transaction).await?;
        let tariff = Tariff::find(&mut *transaction, tariff_id).await?;
        if tariff.is_retail() {
            return Err(CommandError::Failed(format!("the tariff {tariff_id} is a retail tariff")));
        }
        lock(&mut transaction, &tariff).await?;
        let outcome = Import::new(&mut transaction, &tariff).run(file, bytes).await?;
        if outcome.refused.is_empty() && !dry_run {
            record_import(&mut transaction, &tariff, &outcome).await?;
            transaction.commit().await?;
        }
        Ok(outcome)
    });
    Ok(outcome.await?.into_report(tariff_id, dry_run))
}

/// Two imports into one tariff run one after the other.
async fn lock(connection: &mut PgConnection, tariff: &Tariff) -> sqlx::Result<()> {
    sqlx::query!("select id from tariffs where id = $1 for update", tariff.id).fetch_optional(connection).await?;
    Ok(())
}

/// A running import.
struct Import<'a> {
    connection: &'a mut PgConnection,
    tariff: &'a Tariff,
    /// The line of each prefix and start.
    seen: HashMap<(String, String), u64>,
    batch: Vec<(u64, WholesaleLine)>,
    outcome: Outcome,
}

impl<'a> Import<'a> {
    fn new(connection: &'a mut PgConnection, tariff: &'a Tariff) -> Self {
        Self { connection, tariff, seen: HashMap::new(), batch: Vec::new(), outcome: Outcome::default() }
    }

    async fn run(mut self, file: &Spooled, bytes: u64) -> Result<Outcome, CommandError> {
        let bar = progress_bar(bytes, "reading bytes");
        let (mut lines, _) = CsvLines::begin(file.reader())?;
        while let Some((number, record)) = lines.next_line()? {
            match record {
                Ok(record) => self.add(number, record),
                Err(reason) => self.refuse(number, reason),
            }
            if self.batch.len() == BATCH_LINES {
                self.write_batch().await?;
                bar.set_position(lines.byte_position());
            }
        }
        self.write_batch().await?;
        bar.finish_and_clear();
        self.outcome.refused.sort_by_key(|refused| refused.line);
        Ok(self.outcome)
    }

    fn add(&mut self, number: u64, record: &StringRecord) {
        let line = match WholesaleLine::read(record) {
            Ok(line) => line,
            Err(reason) => return self.refuse(number, reason),
        };
        match self.seen.insert((line.prefix.clone(), line.start()), number) {
            None => self.batch.push((number, line)),
            Some(first) => self.refuse(number, format!("line {first} has the same prefix and effective_from")),
        }
    }

    fn refuse(&mut self, line: u64, reason: impl Into<String>) {
        self.outcome.refused.push(RefusedLine { line, reason: reason.into() });
    }

    async fn write_batch(&mut self) -> Result<(), CommandError> {
        let lines = std::mem::take(&mut self.batch);
        let numbers: Vec<i64> = lines.iter().map(|(number, _)| i64::try_from(*number).unwrap_or(i64::MAX)).collect();
        let prefixes: Vec<String> = lines.iter().map(|(_, line)| line.prefix.clone()).collect();
        let rates: Vec<BigDecimal> = lines.iter().map(|(_, line)| line.rate.clone()).collect();
        let connection_fees: Vec<BigDecimal> = lines.iter().map(|(_, line)| line.connection_fee.clone()).collect();
        let increments: Vec<i32> = lines.iter().map(|(_, line)| line.increment).collect();
        let min_times: Vec<i32> = lines.iter().map(|(_, line)| line.min_time).collect();
        let starts: Vec<String> = lines.iter().map(|(_, line)| line.start()).collect();
        let outcomes = sqlx::query_file!(
            "src/cli/tariff/import_wholesale.sql",
            self.tariff.id,
            &numbers,
            &prefixes,
            &rates,
            &connection_fees,
            &increments,
            &min_times,
            &starts
        );
        let outcomes = outcomes.fetch_all(&mut *self.connection).await?;
        for ((number, line), row) in lines.iter().zip(outcomes) {
            match row.outcome.as_str() {
                "added" => self.outcome.added += 1,
                "changed" => self.outcome.changed += 1,
                "unchanged" => self.outcome.unchanged += 1,
                "unknown_prefix" => self.refuse(*number, format!("no destination has the prefix {:?}", line.prefix)),
                _ => {
                    self.refuse(*number, "the tariff has several prices for this prefix, by time of day or day of week")
                }
            }
        }
        Ok(())
    }
}

impl Outcome {
    fn into_report(self, tariff_id: i64, dry_run: bool) -> Report {
        let Self { added, changed, unchanged, refused } = &self;
        let mut text: String =
            refused.iter().map(|refused| format!("line {}: {}\n", refused.line, refused.reason)).collect();
        let counts = format!("added {added}, changed {changed}, unchanged {unchanged}");
        text += &match (refused.len(), dry_run) {
            (0, false) => format!("The rates of the tariff {tariff_id} were imported: {counts}."),
            (0, true) => format!("Nothing was written (--dry-run). The import would have: {counts}."),
            (lines, _) => format!("Nothing was written: lines refused: {lines}. The others would have: {counts}."),
        };
        let is_success = refused.is_empty();
        let mut json = json!(self);
        json["tariff"] = tariff_id.into();
        json["dry_run"] = dry_run.into();
        Report::new(text, json).fail_unless(is_success)
    }
}

async fn record_import(connection: &mut PgConnection, tariff: &Tariff, outcome: &Outcome) -> sqlx::Result<()> {
    if outcome.added + outcome.changed == 0 {
        return Ok(());
    }
    let after = json!({ "rates_added": outcome.added, "rates_changed": outcome.changed });
    let change = Change {
        what: What::Tariff,
        target: Target::Row { id: tariff.id, name: &tariff.name },
        before: None,
        after: Some(after.to_string()),
    };
    change.record(connection, &author()).await
}
