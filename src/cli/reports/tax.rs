//! `mortise report tax`: sums taxes by rate and currency.

use clap::Args;

use super::{PeriodOptions, format_period};
use crate::back_office::reports::tax::report;
use crate::cli::database::with_database;
use crate::cli::report::format_table;
use crate::cli::{CommandError, Report};
use crate::config::Config;

/// The days.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    period: PeriodOptions,
}

/// Runs the command.
pub(super) async fn run(options: &Options, config: &Config) -> Result<Report, CommandError> {
    let report = with_database(config, async |pool| {
        Ok(report(pool, &options.period.days(), &options.period.time_zone, None).await?)
    })
    .await?;
    let rows = report.rows.iter().map(|row| {
        vec![
            row.currency.clone(),
            row.rate.as_ref().map_or("-".to_owned(), |rate| format!("{} %", rate.to_plain_string())),
            row.count.to_string(),
            row.amount.to_plain_string(),
            row.tax.to_plain_string(),
        ]
    });
    let table = format_table(&["CURRENCY", "RATE", "PAYMENTS", "AMOUNT", "TAX"], rows);
    Ok(Report::new(format!("{}\n{table}", format_period(&report.period)), report))
}
