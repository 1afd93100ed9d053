//! `mortise import`: brings a MOR database into an empty Mortise.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use super::database::with_new_or_existing;
use super::{CommandError, Report, secret};
use crate::config::Config;
use crate::input;
use crate::mor_import::error::ImportError;
use crate::mor_import::progress::Event;
use crate::mor_import::replace::ReplaceOptions;
use crate::mor_import::run::{self, ImportOptions, ImportResult};
use crate::mor_import::source::{SourceAddress, SourceError, SourceOptions, Tls};
use crate::mor_import::stage::StageOptions;

/// How to connect to MOR's database.
#[derive(Debug, clap::Args)]
pub struct ConnectionOptions {
    /// MOR's database; the password is typed, or read from standard input
    #[arg(value_name = "mysql://USER@HOST[:PORT]/DATABASE")]
    url: String,
    /// File whose first line is the password
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Whether the connection is encrypted
    #[arg(long, value_name = "MODE", default_value = "preferred")]
    tls: Tls,
    /// Certificates of the authority that signed MySQL's certificate; without them it is not checked
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
}

/// Options of `mortise import`.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    connection: ConnectionOptions,
    /// Read and check everything, and leave Mortise's tables unchanged
    #[arg(long)]
    dry_run: bool,
    /// File with your decisions: the report of a dry run, edited
    #[arg(long, value_name = "FILE")]
    decisions: Option<PathBuf>,
    /// Write the findings to this file
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Time zone of MOR's times, such as Europe/Vilnius [default: MySQL's]
    #[arg(long, value_name = "ZONE")]
    time_zone: Option<String>,
    /// Import the log `actions` from this date on only, such as 2025-01-01
    #[arg(long, value_name = "DATE", value_parser = parse_date)]
    history: Option<String>,
    /// Table whose texts are UTF-8 in latin1 columns; several times for several tables
    #[arg(long, value_name = "TABLE")]
    charset_repair: Vec<String>,
    /// Read no more rows of MOR in a second
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_rows_per_second: Option<u32>,
    /// Accept that the snapshot gets older than four hours
    #[arg(long)]
    yes: bool,
    /// Replace the rows of a database that is in use
    #[arg(long, conflicts_with = "dry_run")]
    replace: bool,
    /// Number of payments of sales, top-ups and refunds that --replace may delete
    #[arg(long, value_name = "COUNT", requires = "replace")]
    discard_sales: Option<i64>,
    /// Write the rows that --replace deletes to this file before
    #[arg(long, value_name = "FILE", requires = "replace")]
    backup: Option<PathBuf>,
}

/// Parses a date of the form `2025-01-31`.
fn parse_date(text: &str) -> Result<String, String> {
    match humantime::parse_rfc3339(&format!("{text}T00:00:00Z")) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err("expected a date such as 2025-01-31".to_owned()),
    }
}

impl ConnectionOptions {
    /// Reads the password.
    pub fn read(&self) -> Result<SourceOptions, CommandError> {
        let address = SourceAddress::parse(&self.url).map_err(|error| CommandError::Usage(error.to_string()))?;
        let password = match &self.password_file {
            Some(file) => {
                let text = input::read_file(file)
                    .map_err(|error| CommandError::Usage(format!("cannot read {}: {error}", file.display())))?;
                text.lines().next().unwrap_or_default().to_owned()
            }
            None => secret::read_existing(&format!("password of {} in MySQL", address.user))?,
        };
        Ok(SourceOptions { address, password: password.into(), tls: self.tls, tls_ca: self.tls_ca.clone() })
    }
}

impl From<ImportError> for CommandError {
    fn from(error: ImportError) -> Self {
        match error {
            ImportError::Source(SourceError::InvalidUrl | SourceError::PasswordInUrl) => Self::Usage(error.to_string()),
            ImportError::Target(error) => Self::Sql(error),
            ImportError::Database(error) => Self::Database(error),
            error => Self::Failed(error.to_string()),
        }
    }
}

/// Runs the import.
pub async fn run(options: &Options, config: &Config, as_json: bool) -> Result<Report, CommandError> {
    let import = ImportOptions {
        source: options.connection.read()?,
        time_zone: options.time_zone.clone(),
        stage: StageOptions {
            rows_per_second_max: options.max_rows_per_second,
            accepts_old_snapshot: options.yes,
            charset_repair: options.charset_repair.clone(),
        },
        history: options.history.clone(),
        replace: options
            .replace
            .then(|| ReplaceOptions { discard_sales: options.discard_sales, backup: options.backup.clone() }),
        is_dry_run: options.dry_run,
        decisions: options.decisions.clone(),
        report: options.report.clone(),
        operator: super::operator_name(),
    };
    let result = with_new_or_existing(config, async |pool| {
        Ok(run::import(&import, pool, |event| print_event(&event, as_json)).await?)
    })
    .await?;
    let is_success = match &result.verification {
        Some(verification) => verification.differences.is_empty(),
        None => options.dry_run && result.undecided == 0,
    };
    Ok(report(as_json, &result, describe(&result, options)).fail_unless(is_success))
}

/// The report of a command whose progress is JSON lines: its result is the last line.
pub fn report(as_json: bool, result: &impl serde::Serialize, text: String) -> Report {
    if !as_json {
        return Report::new(text, ());
    }
    let line = serde_json::json!({ "event": "result", "result": result });
    let _ = writeln!(std::io::stdout(), "{line}");
    Report::empty()
}

/// Prints the progress: JSON lines on standard output, else lines on standard error.
pub fn print_event(event: &Event, as_json: bool) {
    // A closed pipe does not end an import.
    let _ = if as_json {
        serde_json::to_string(event).map(|line| writeln!(std::io::stdout(), "{line}"))
    } else {
        Ok(match event {
            Event::Step { step } => writeln!(std::io::stderr(), "{step}"),
            Event::Note { text } => writeln!(std::io::stderr(), "note: {text}"),
            Event::Staged { table, rows, rows_estimated, rows_per_second, seconds_left }
                if std::io::stderr().is_terminal() =>
            {
                let left = humantime::format_duration(Duration::from_secs(*seconds_left));
                let line =
                    format!("  {table}: {rows} rows of about {rows_estimated}, {rows_per_second} rows/s, {left} left");
                writeln!(std::io::stderr(), "{line}")
            }
            Event::Staged { .. } => Ok(()),
        })
    };
}

fn describe(result: &ImportResult, options: &Options) -> String {
    if let Some(finished_at) = &result.unchanged_since {
        return format!(
            "Nothing has changed since the import of {finished_at} UTC: every row and every checksum agrees. Nothing was done."
        );
    }
    let mut lines: Vec<String> = result
        .findings
        .iter()
        .map(|count| {
            let undecided = match count.undecided {
                0 => String::new(),
                undecided => format!(", {undecided} undecided"),
            };
            format!("{} in {}: {}{undecided}, money {}", count.rule, count.table, count.findings, count.money)
        })
        .collect();
    match &result.verification {
        None if result.undecided > 0 => lines.push(format!(
            "Nothing was imported: {} findings need a decision. Write them to a file with --dry-run --report FILE, edit \
             its last column, and pass it to --decisions.",
            result.undecided
        )),
        None if options.dry_run => lines.push("Nothing was imported: this was a dry run.".to_owned()),
        None => {}
        Some(verification) => {
            for table in &verification.tables {
                lines.push(format!(
                    "{}: {} rows in MOR, {} imported, {} quarantined, {} left out",
                    table.table, table.rows_in_mor, table.imported, table.quarantined, table.left_out
                ));
            }
            lines.extend(verification.differences.iter().map(|difference| format!("DIFFERENCE {difference}")));
            lines.push(match verification.differences.len() {
                0 => "Imported and verified: every row and every checksum agrees.".to_owned(),
                count => format!("Nothing was imported: {count} differences were found."),
            });
        }
    }
    lines.join("\n")
}
