//! `mortise tariff import`: adds the rates of a file to a tariff, or changes their prices.

use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;

use bigdecimal::BigDecimal;
use clap::Args;
use csv::StringRecord;
use serde::Serialize;
use serde_json::json;
use sqlx::PgConnection;

use super::wholesale_csv::WholesaleLine;
use super::{Tariff, WHOLESALE_HEADINGS};
use crate::cli::database::with_database;
use crate::cli::{CommandError, Report, author, progress_bar};
use crate::config::Config;
use crate::store::change_log::{Change, Target, What};

/// The file, and the tariff that gets its rates.
#[derive(Debug, Args)]
pub struct Options {
    /// The CSV file
    file: PathBuf,
    /// The id of the tariff, as in `mortise tariff list`
    #[arg(long, value_name = "ID")]
    tariff: i64,
    /// Only check every line and count the changes
    #[arg(long)]
    dry_run: bool,
}

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

/// A line that cannot be imported.
#[derive(Debug, Serialize)]
struct RefusedLine {
    line: u64,
    reason: String,
}

/// Runs the command, in one transaction: if a line is refused, nothing is written.
pub(super) async fn run(options: &Options, config: &Config) -> Result<Report, CommandError> {
    let path = options.file.display();
    let file =
        File::open(&options.file).map_err(|error| CommandError::Failed(format!("cannot read {path}: {error}")))?;
    let outcome = with_database(config, async |pool| {
        let mut transaction = pool.begin().await?;
        // A million rates take longer than the timeout for requests.
        sqlx::query!("select set_config('statement_timeout', '1h', true)").fetch_one(&mut *transaction).await?;
        let tariff = Tariff::find(&mut *transaction, options.tariff).await?;
        if tariff.is_retail() {
            let message = format!("the tariff {} is a retail tariff: send tariff_retail_import", tariff.id);
            return Err(CommandError::Failed(message));
        }
        lock(&mut transaction, &tariff).await?;
        let outcome = Import::new(&mut transaction, &tariff).run(file).await?;
        if outcome.refused.is_empty() && !options.dry_run {
            record_import(&mut transaction, &tariff, &outcome).await?;
            transaction.commit().await?;
        }
        Ok(outcome)
    });
    Ok(outcome.await?.into_report(options))
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

    async fn run(mut self, file: File) -> Result<Outcome, CommandError> {
        let bar = progress_bar(file.metadata()?.len(), "reading bytes");
        let mut csv = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(file);
        let mut record = StringRecord::new();
        let has_header = csv.read_record(&mut record).map_err(csv_error)?;
        if !has_header || record.iter().map(str::trim).ne(WHOLESALE_HEADINGS) {
            return Err(CommandError::Failed(format!("the first line must be {}", WHOLESALE_HEADINGS.join(","))));
        }
        loop {
            let line = csv.position().line();
            match csv.read_record(&mut record) {
                Ok(true) => self.add(record.position().map_or(line, csv::Position::line), &record),
                Ok(false) => break,
                Err(error) if matches!(error.kind(), csv::ErrorKind::Utf8 { .. }) => {
                    self.refuse(error.position().map_or(line, csv::Position::line), "the line is not UTF-8");
                }
                Err(error) => return Err(csv_error(error)),
            }
            if self.batch.len() == BATCH_LINES {
                self.write_batch().await?;
                bar.set_position(csv.position().byte());
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

fn csv_error(error: csv::Error) -> CommandError {
    CommandError::Failed(format!("cannot read the CSV file: {error}"))
}

impl Outcome {
    fn into_report(self, options: &Options) -> Report {
        let Self { added, changed, unchanged, refused } = &self;
        let mut text: String =
            refused.iter().map(|refused| format!("line {}: {}\n", refused.line, refused.reason)).collect();
        let counts = format!("added {added}, changed {changed}, unchanged {unchanged}");
        text += &match (refused.len(), options.dry_run) {
            (0, false) => format!("The rates of the tariff {} were imported: {counts}.", options.tariff),
            (0, true) => format!("Nothing was written (--dry-run). The import would have: {counts}."),
            (lines, _) => format!("Nothing was written: lines refused: {lines}. The others would have: {counts}."),
        };
        let is_success = refused.is_empty();
        let mut json = json!(self);
        json["tariff"] = options.tariff.into();
        json["dry_run"] = options.dry_run.into();
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
