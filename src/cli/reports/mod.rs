//! `mortise report`: reports from the payments.

mod reconcile;
mod sales;
mod statement;
mod stock;
mod tax;

use clap::{Args, Subcommand};

use super::{CommandError, Report};
use crate::back_office::reports::period::{Day, Days, Month, Period, TIME_ZONE_DEFAULT};
use crate::config::Config;

/// Subcommands of `mortise report`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Sum sales, top-ups and refunds
    Sales(sales::Options),
    /// List the free cards of each group, and how long they last
    Stock(stock::Options),
    /// Sum taxes by rate and currency
    Tax(tax::Options),
    /// Print the statement of a reseller
    Statement(statement::Options),
    /// Compare a payment provider's list with the payments
    Reconcile(reconcile::Options),
}

/// The days of a report.
#[derive(Debug, Args)]
struct PeriodOptions {
    /// The first day: a date such as 2026-11-30, today or yesterday [default: the first day of this month]
    #[arg(long, value_name = "DAY")]
    from: Option<Day>,
    /// The last day, included [default: today]
    #[arg(long, value_name = "DAY", requires = "from")]
    to: Option<Day>,
    /// A whole month, such as 2026-11
    #[arg(long, value_name = "MONTH", conflicts_with = "from")]
    month: Option<Month>,
    /// The time zone of the days, such as Europe/Vilnius
    #[arg(long, value_name = "NAME", default_value = TIME_ZONE_DEFAULT)]
    time_zone: String,
}

impl PeriodOptions {
    /// Returns the days. `None`: the operator names none.
    fn named_days(&self) -> Option<Days> {
        let month = self.month.clone().map(Days::Month);
        let from = self.from.clone();
        month.or_else(|| Some(Days::Range(from?, self.to.clone().unwrap_or(Day::Today))))
    }

    fn days(&self) -> Days {
        self.named_days().unwrap_or(Days::ThisMonth)
    }
}

/// Runs the command.
pub async fn run(command: &Command, config: &Config) -> Result<Report, CommandError> {
    match command {
        Command::Sales(options) => sales::run(options, config).await,
        Command::Stock(options) => stock::run(options, config).await,
        Command::Tax(options) => tax::run(options, config).await,
        Command::Statement(options) => statement::run(options, config).await,
        Command::Reconcile(options) => reconcile::run(options, config).await,
    }
}

/// Returns the first line of a report.
fn format_period(period: &Period) -> String {
    format!("{} to {} ({})", period.from, period.to, period.time_zone)
}
