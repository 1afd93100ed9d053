//! `mortise report stock`: lists the free cards of each group, and how long they last.

use clap::Args;

use crate::back_office::reports::stock::report;
use crate::cli::database::with_database;
use crate::cli::{CommandError, Report};
use crate::config::Config;

/// Which groups to list.
#[derive(Debug, Args)]
pub struct Options {
    /// Only groups that are sold out at the pace of the last 28 days, or end, within this number of days
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(i32).range(0..=36_500))]
    within: Option<i32>,
}

/// Runs the command.
pub(super) async fn run(options: &Options, config: &Config) -> Result<Report, CommandError> {
    let rows = with_database(config, async |pool| Ok(report(pool, options.within).await?)).await?;
    let headings = ["ID", "GROUP", "OWNER", "FREE", "SOLD IN 28 DAYS", "DAYS LEFT", "VALID TILL", "NOTE"];
    Ok(Report::table(headings, &rows, |row| {
        let note = match row.validity.as_str() {
            "expired" => "expired, and still sells",
            "expires" => "expires within 28 days",
            "expires_before_sold_out" => "expires before it is sold out",
            _ => "",
        };
        [
            row.id.to_string(),
            row.name.clone(),
            row.owner.clone().unwrap_or_default(),
            row.free.to_string(),
            row.sold.to_string(),
            row.days_left.map(|days| days.to_string()).unwrap_or_default(),
            row.valid_till.clone().unwrap_or_default(),
            note.to_owned(),
        ]
    }))
}
