//! `mortise reconcile`: compares MOR's database with what was imported from it.

use super::database::with_database;
use super::import::{ConnectionOptions, print_event, report};
use super::{CommandError, Report};
use crate::config::Config;
use crate::mor_import::reconcile;

/// Options of `mortise reconcile`.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    connection: ConnectionOptions,
}

/// Runs the comparison.
pub async fn run(options: &Options, config: &Config, as_json: bool) -> Result<Report, CommandError> {
    let source = options.connection.read()?;
    let verification = with_database(config, async |pool| {
        Ok(reconcile::reconcile(&source, pool, |event| print_event(&event, as_json)).await?)
    })
    .await?;
    let mut lines: Vec<String> =
        verification.differences.iter().map(|difference| format!("DIFFERENCE {difference}")).collect();
    let rows: i64 = verification.tables.iter().map(|table| table.rows_in_mor).sum();
    lines.push(match lines.len() {
        0 => format!("Equal: {rows} rows of {} tables.", verification.tables.len()),
        count => format!("{count} differences in {rows} rows."),
    });
    let is_equal = verification.differences.is_empty();
    Ok(report(as_json, &verification, lines.join("\n")).fail_unless(is_equal))
}
