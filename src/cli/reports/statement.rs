//! `mortise report statement`: prints the statement of a reseller.

use clap::Args;

use super::{PeriodOptions, format_period};
use crate::back_office::reports::statement::report;
use crate::cli::database::with_database;
use crate::cli::report::format_table;
use crate::cli::{CommandError, Report};
use crate::config::Config;

/// The reseller and the days.
#[derive(Debug, Args)]
pub struct Options {
    /// The reseller's name, or the admin's
    user: String,
    #[command(flatten)]
    period: PeriodOptions,
}

/// Runs the command.
pub(super) async fn run(options: &Options, config: &Config) -> Result<Report, CommandError> {
    let statement = with_database(config, async |pool| {
        Ok(report(pool, &options.user, &options.period.days(), &options.period.time_zone).await?)
    })
    .await?;
    let rows = statement.payments.iter().map(|row| {
        let kind = match row.kind.as_str() {
            "sale" => "sales",
            "top_up" => "top-ups of cards",
            "refill" => "refills of users",
            _ => "refunds",
        };
        vec![
            kind.to_owned(),
            row.currency.clone(),
            row.count.to_string(),
            row.amount.to_plain_string(),
            row.tax.to_plain_string(),
        ]
    });
    let payments = format_table(&["PAYMENTS", "CURRENCY", "COUNT", "AMOUNT", "TAX"], rows);
    let balance = &statement.balance;
    let text = format!(
        "{}, {}\n{payments}\n\nOwn balance ({}): {} at the start, {} added by payments, {} at the end",
        statement.user,
        format_period(&statement.period),
        balance.currency,
        balance.opening.to_plain_string(),
        balance.added.to_plain_string(),
        balance.closing.to_plain_string()
    );
    Ok(Report::new(text, statement))
}
