//! `mortise report reconcile`: compares a payment provider's list with the payments.

use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use serde_json::json;

use super::PeriodOptions;
use crate::back_office::export::guard_formula;
use crate::back_office::reports::reconciliation::{Difference, Reconciliation, Span, Summary};
use crate::cli::database::with_database;
use crate::cli::output_file::{OutputFile, csv_to_io_error};
use crate::cli::report::format_table;
use crate::cli::{CommandError, Report, find_user};
use crate::config::Config;

/// Maximum number of differences that are printed. The output file has all of them.
const PRINTED_MAX: usize = 100;

/// The list and the days.
#[derive(Debug, Args)]
#[command(
    mut_arg("from", |from| from.help(
        "The first day whose payments must be in the list [default: that of the first payment that the list names]"
    )),
    mut_arg("to", |to| to.help("The last day, included [default: today with --from, else the list's last payment]"))
)]
pub struct Options {
    /// CSV with a header line and the columns reference, amount and currency
    file: PathBuf,
    #[command(flatten)]
    period: PeriodOptions,
    /// Only the payments by this API user must be in the list: the list is of one shop [default: those of all]
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// The file to create with all differences as CSV, readable only by you
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Runs the command.
pub(super) async fn run(options: &Options, config: &Config) -> Result<Report, CommandError> {
    let open_error = |error| CommandError::failed(format!("cannot open {}: {error}", options.file.display()));
    let list = File::open(&options.file).map_err(open_error)?;
    let output = options.output.as_deref().map(OutputFile::create).transpose()?;
    let (span, summary, printed) = with_database(config, async |pool| {
        let (days, time_zone) = (options.period.named_days(), &options.period.time_zone);
        let user_id = match &options.user {
            Some(name) => Some(find_user(pool, name).await?.id),
            None => None,
        };
        let mut reconciliation = Reconciliation::run(pool, list, days.as_ref(), time_zone, user_id, None).await?;
        let summary = reconciliation.summarize().await?;
        let printed = collect_differences(&mut reconciliation, output.as_ref()).await?;
        Ok((reconciliation.span, summary, printed))
    })
    .await?;
    output.map(OutputFile::finish).transpose()?;
    let is_equal = summary.is_equal(&span);
    let text = format!("{}\n{}", format_span(&span), format_text(&summary, &printed, options));
    let Span { from, to, time_zone, .. } = span;
    let json = json!({ "from": from, "to": to, "time_zone": time_zone, "summary": summary, "differences": printed,
        "output": options.output });
    Ok(Report::new(text, json).fail_unless(is_equal))
}

/// Returns the first differences, and writes all of them to the output file.
async fn collect_differences(
    reconciliation: &mut Reconciliation,
    output: Option<&OutputFile>,
) -> Result<Vec<Difference>, CommandError> {
    let mut csv = output.map(|output| csv::Writer::from_writer(BufWriter::new(output.file())));
    let mut printed = Vec::new();
    reconciliation
        .for_each_difference(|difference| {
            if let Some(csv) = &mut csv {
                csv.serialize(Line::new(&difference)).map_err(csv_to_io_error)?;
            }
            if printed.len() < PRINTED_MAX {
                printed.push(difference);
            }
            Ok::<_, CommandError>(())
        })
        .await?;
    csv.map(|mut csv| csv.flush()).transpose()?;
    Ok(printed)
}

/// A line of the output file.
#[derive(Serialize)]
struct Line<'a> {
    result: &'a str,
    reference: String,
    currency: &'a str,
    listed: Option<String>,
    paid: Option<String>,
    line: Option<i64>,
}

impl<'a> Line<'a> {
    fn new(difference: &'a Difference) -> Self {
        Self {
            result: &difference.result,
            reference: guard_formula(&difference.reference).into_owned(),
            currency: &difference.currency,
            listed: difference.listed.as_ref().map(|amount| amount.to_plain_string()),
            paid: difference.paid.as_ref().map(|amount| amount.to_plain_string()),
            line: difference.line,
        }
    }
}

fn format_span(span: &Span) -> String {
    match (&span.from, &span.to) {
        (Some(from), Some(to)) => {
            let origin = if span.has_days { "" } else { ", from the first to the last payment that the list names" };
            format!("{from} to {to} ({}){origin}", span.time_zone)
        }
        _ => "The list names no payment.".to_owned(),
    }
}

fn format_text(summary: &Summary, printed: &[Difference], options: &Options) -> String {
    let Summary { matched, missing_here, missing_in_list, different } = summary;
    let counts = format!(
        "matched: {matched}, missing here: {missing_here}, missing in the list: {missing_in_list}, \
         different amounts: {different}"
    );
    if printed.is_empty() {
        return counts;
    }
    let amount = |amount: &Option<crate::money::Money>| {
        amount.as_ref().map_or("-".to_owned(), |amount| amount.to_plain_string())
    };
    let rows = printed.iter().map(|difference| {
        let result = match difference.result.as_str() {
            "missing_here" => "missing here",
            "missing_in_list" => "missing in the list",
            _ => "different amounts",
        };
        vec![
            result.to_owned(),
            difference.reference.clone(),
            difference.currency.clone(),
            amount(&difference.listed),
            amount(&difference.paid),
            difference.line.map(|line| line.to_string()).unwrap_or_default(),
        ]
    });
    let table = format_table(&["RESULT", "REFERENCE", "CURRENCY", "LISTED", "PAID", "LINE"], rows);
    let count = missing_here + missing_in_list + different;
    let more = count - i64::try_from(printed.len()).unwrap_or(count);
    let rest = match &options.output {
        Some(path) => format!("\nAll differences were written to {}.", path.display()),
        None if more > 0 => format!("\nand {more} more: --output FILE writes all of them"),
        None => String::new(),
    };
    format!("{table}{rest}\n{counts}")
}
