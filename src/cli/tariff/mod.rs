//! `mortise tariff`: lists tariffs, writes their rates to files, and reads rates from files.

mod csv_lines;
mod export;
mod export_xml;
mod import;
mod import_retail;
mod import_wholesale;
mod list;
mod retail_csv;
mod wholesale_csv;

use clap::Subcommand;
use indicatif::ProgressBar;
use serde::Serialize;
use sqlx::{PgConnection, PgExecutor};

use super::{CommandError, Report, progress_bar};
use crate::config::Config;

/// Subcommands of `mortise tariff`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the tariffs with the number of their rates
    List,
    /// Write the prices of a tariff to a new file
    Export(export::Options),
    /// Add the rates of a file to a tariff
    Import(import::Options),
}

/// Runs the command.
pub async fn run(command: &Command, config: &Config) -> Result<Report, CommandError> {
    match command {
        Command::List => list::run(config).await,
        Command::Export(options) => export::run(options, config).await,
        Command::Import(options) => import::run(options, config).await,
    }
}

/// The header line of a CSV file with wholesale rates.
const WHOLESALE_HEADINGS: [&str; 6] = ["prefix", "rate", "connection_fee", "increment", "min_time", "effective_from"];
/// The header line of a CSV file with retail prices.
const RETAIL_HEADINGS: [&str; 8] =
    ["destination_group", "price", "round_by", "duration", "type", "start_time", "end_time", "day_type"];

/// The tariff that a command names.
struct Tariff {
    id: i64,
    name: String,
    purpose: String,
}

impl Tariff {
    /// Finds the tariff `id`.
    ///
    /// # Errors
    ///
    /// [`CommandError::NotFound`].
    async fn find(executor: impl PgExecutor<'_>, id: i64) -> Result<Self, CommandError> {
        let tariff = sqlx::query_as!(Self, "select id, name, purpose from tariffs where id = $1", id);
        let not_found = || CommandError::NotFound(format!("there is no tariff {id}: `mortise tariff list` shows all"));
        tariff.fetch_optional(executor).await?.ok_or_else(not_found)
    }

    fn is_retail(&self) -> bool {
        self.purpose == "user"
    }
}

/// How long an import waits for another one into the same tariff.
const IMPORT_LOCK_TIMEOUT: &str = "1h";

/// Gives the transaction more time than requests have: a million rates, or another import before this one, take long.
async fn begin_long_import(connection: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query!(
        "select set_config('statement_timeout', '1h', true) as statement, set_config('lock_timeout', $1, true) as lock",
        IMPORT_LOCK_TIMEOUT
    )
    .fetch_one(connection)
    .await?;
    Ok(())
}

/// A line of a file that cannot be imported.
#[derive(Debug, Serialize)]
struct RefusedLine {
    line: u64,
    reason: String,
}

/// Creates the progress bar of an export.
fn price_bar(prices: i64) -> ProgressBar {
    progress_bar(u64::try_from(prices).unwrap_or(0), "writing prices")
}
