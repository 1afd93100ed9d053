//! `mortise report sales`: sums sales, top-ups and refunds.

use clap::Args;

use super::{PeriodOptions, format_period};
use crate::back_office::reports::filter::PaymentFilter;
use crate::back_office::reports::sales::{GroupBy, SalesRow, report};
use crate::cli::database::with_database;
use crate::cli::report::format_table;
use crate::cli::{CommandError, Report};
use crate::config::Config;

/// The days, and what the rows are for.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    period: PeriodOptions,
    /// A row for each of these, separated by commas. There is always a row for each currency
    #[arg(long, value_name = "WHAT", value_delimiter = ',')]
    by: Vec<GroupBy>,
}

/// Runs the command.
pub(super) async fn run(options: &Options, config: &Config) -> Result<Report, CommandError> {
    let report = with_database(config, async |pool| {
        Ok(report(pool, &options.period.days(), &options.period.time_zone, &options.by, &PaymentFilter::default())
            .await?)
    })
    .await?;
    let keys: Vec<GroupBy> =
        [GroupBy::Day, GroupBy::Group, GroupBy::User].into_iter().filter(|key| options.by.contains(key)).collect();
    let key_headings = keys.iter().map(|key| match key {
        GroupBy::Day => "DAY",
        GroupBy::Group => "GROUP",
        GroupBy::User => "USER",
        GroupBy::Currency => "CURRENCY",
    });
    let headings: Vec<&str> = key_headings
        .chain(["CURRENCY", "COUNT", "AMOUNT", "TAX", "REFUNDS", "REFUNDED", "REFUNDED TAX", "NET", "NET TAX"])
        .collect();
    let rows = report.rows.iter().map(|row| keys.iter().map(|key| key_cell(row, *key)).chain(amount_cells(row)));
    let totals = report.totals.iter().map(|row| {
        let label = keys.iter().enumerate().map(|(index, _)| if index == 0 { "total" } else { "" }.to_owned());
        label.chain(amount_cells(row))
    });
    // Without keys the rows are the totals.
    let rows = rows.filter(|_| !keys.is_empty()).map(Iterator::collect);
    let table = format_table(&headings, rows.chain(totals.map(Iterator::collect)));
    Ok(Report::new(format!("{}\n{table}", format_period(&report.period)), report))
}

fn key_cell(row: &SalesRow, key: GroupBy) -> String {
    let name = |id: Option<i32>, name: &Option<String>, missing: &str| match (id, name) {
        (Some(id), Some(name)) => format!("{name} ({id})"),
        (Some(id), None) => id.to_string(),
        (None, _) => missing.to_owned(),
    };
    match key {
        GroupBy::Day => row.day.clone().unwrap_or_default(),
        GroupBy::Group => name(row.group_id, &row.group, "(users' balances)"),
        GroupBy::User => name(row.user_id, &row.user, "(commands)"),
        GroupBy::Currency => row.currency.clone(),
    }
}

fn amount_cells(row: &SalesRow) -> [String; 9] {
    [
        row.currency.clone(),
        row.count.to_string(),
        row.amount.to_plain_string(),
        row.tax.to_plain_string(),
        row.refunds.to_string(),
        row.refunded.to_plain_string(),
        row.refunded_tax.to_plain_string(),
        row.net.to_plain_string(),
        row.net_tax.to_plain_string(),
    ]
}
