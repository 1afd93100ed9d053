//! `mortise tariff import` for retail prices: the import of `tariff_retail_import`, from a file.

use std::io;

use indicatif::ProgressBar;
use serde_json::json;
use sqlx::{PgConnection, PgPool};

use super::{IMPORT_LOCK_TIMEOUT, RefusedLine, Tariff, begin_long_import, retail_csv};
use crate::cli::database::with_database;
use crate::cli::{ADMIN_ID, CommandError, Report, author, progress_bar};
use crate::config::Config;
use crate::error::ApiError;
use crate::number::parse_integer;
use crate::operations::tariff::retail_import::document::{self, Destination, Head, Rate, ReadError, Source};
use crate::operations::tariff::retail_import::fields::Fault;
use crate::operations::tariff::retail_import::import;
use crate::operations::tariff::retail_import::order::Import;
use crate::operations::tariff::retail_import::refusals::{Imported, Refusals};
use crate::operations::tariff::retail_import::rules::{Decision, Reason};
use crate::spool::{self, Spooled};

/// Runs the command, in one transaction: if a line is refused, nothing is written. `tariff`: the tariff that gets the
/// prices of a CSV file; `None`: the file is an XML document.
pub(super) async fn run(
    file: Spooled,
    bytes: u64,
    tariff: Option<i64>,
    dry_run: bool,
    config: &Config,
) -> Result<Report, CommandError> {
    // The file is read twice.
    let bar = progress_bar(bytes * 2, "reading bytes");
    let imported = with_database(config, async |pool| {
        // The file is read and checked before the transaction begins.
        let (source, head, lines) = match tariff {
            Some(id) => check_csv(pool, id, file, &bar).await?,
            None => {
                let source = RetailFile { file, is_xml: true, bar: bar.clone() };
                let head = import::read_head(&source).await.map_err(invalid_document)?;
                let head = import::check_head(head)?;
                (source, head, Vec::new())
            }
        };
        let (rates, rates_max) = (head.rates.max(head.destinations), config.max_import_rates.get());
        if rates > rates_max {
            let message = format!("the file has {rates} prices; the setting max_import_rates allows {rates_max}");
            return Err(CommandError::Failed(message));
        }
        let mut transaction = pool.begin().await?;
        begin_long_import(&mut transaction).await?;
        let order = order(&mut transaction, &head, config).await?;
        let refusals = RefusedLines { is_xml: source.is_xml, lines };
        let mut imported = import::import(&mut transaction, &order, &head, &source, refusals).await?;
        imported.refusals.lines.sort_by_key(|refused| refused.line);
        if imported.refusals.lines.is_empty() && !dry_run {
            transaction.commit().await?;
        }
        Ok(imported)
    })
    .await?;
    bar.finish_and_clear();
    Ok(report(imported, dry_run))
}

/// Reads a CSV file once. Returns it, what it contains for the tariff, and the lines that are no prices.
async fn check_csv(
    pool: &PgPool,
    tariff_id: i64,
    file: Spooled,
    bar: &ProgressBar,
) -> Result<(RetailFile, Head, Vec<RefusedLine>), CommandError> {
    let tariff = Tariff::find(pool, tariff_id).await?;
    if !tariff.is_retail() {
        return Err(CommandError::Failed(format!("the tariff {tariff_id} is no retail tariff")));
    }
    let source = RetailFile { file, is_xml: false, bar: bar.clone() };
    let reader = source.clone();
    let (head, lines) = spool::blocking(move || {
        let mut lines = Vec::new();
        let head = retail_csv::read(reader.bar.wrap_read(reader.file.reader()), |_| true, |line| lines.push(line));
        Ok((head, lines))
    })
    .await?;
    let head = Head { id: tariff_id.to_string(), name: tariff.name, ..head.map_err(ApiError::from)? };
    Ok((source, head, lines))
}

/// The error of a document, with the place of the fault.
fn invalid_document(error: ReadError) -> CommandError {
    match error.position {
        Some(_) => CommandError::Failed(error.to_string()),
        None => ApiError::from(error).into(),
    }
}

/// The import by this command. An existing tariff keeps its owner, a new one belongs to the admin.
async fn order(connection: &mut PgConnection, head: &Head, config: &Config) -> Result<Import, CommandError> {
    let tariff_id = parse_integer(&head.id);
    let owner_id = sqlx::query_scalar!("select owner_id from tariffs where id = $1", tariff_id);
    let owner_id = owner_id.fetch_optional(&mut *connection).await?.flatten().unwrap_or(ADMIN_ID);
    let currency = sqlx::query_scalar!(
        "select c.name from users u join currencies c on c.id = u.currency_id where u.id = $1",
        owner_id
    );
    Ok(Import {
        dialect: config.dialect,
        author: author(),
        owner_id,
        currency: currency.fetch_optional(connection).await?,
        rates_max: config.max_import_rates.get(),
        lock_timeout: IMPORT_LOCK_TIMEOUT,
    })
}

/// A file with retail prices.
#[derive(Clone)]
struct RetailFile {
    file: Spooled,
    is_xml: bool,
    bar: ProgressBar,
}

impl Source for RetailFile {
    fn read(&self, receive: impl FnMut(Destination) -> bool) -> Result<Head, ReadError> {
        let reader = self.bar.wrap_read(self.file.reader());
        if self.is_xml { document::read(reader, receive) } else { retail_csv::read(reader, receive, |_| {}) }
    }
}

/// Collects the lines that are refused.
struct RefusedLines {
    is_xml: bool,
    lines: Vec<RefusedLine>,
}

impl Refusals for RefusedLines {
    fn add_unknown(&mut self, destination: &Destination) -> io::Result<()> {
        let lines = match self.is_xml {
            true => vec![destination.line],
            false => destination.rates.iter().map(|rate| rate.line).collect(),
        };
        let reason = format!("no destination group has the name {:?}", destination.group_name);
        self.lines.extend(lines.into_iter().map(|line| RefusedLine { line, reason: reason.clone() }));
        Ok(())
    }

    fn add(&mut self, destination: &Destination, decision: &Decision) -> io::Result<()> {
        self.lines.extend(decision.refused.iter().map(|(index, reason)| {
            let rate = &destination.rates[*index];
            RefusedLine { line: rate.line, reason: describe(*reason, rate, self.is_xml) }
        }));
        Ok(())
    }
}

/// Returns a reason in words, with the name of the field in the file.
fn describe(reason: Reason, rate: &Rate, is_xml: bool) -> String {
    let field = |name: &'static str| if is_xml { name } else { name.trim_start_matches("rate_") };
    match reason {
        Reason::DayType => {
            let name = field("day_type");
            format!("{name}: a group has prices for every day, or for working days and free days, not both")
        }
        Reason::DocumentCollision(range) => {
            format!("the time overlaps another price of the file, between {} and {}", range.start, range.end)
        }
        Reason::RowCollision(range) => {
            format!("the time overlaps another price of the tariff, between {} and {}", range.start, range.end)
        }
        Reason::AfterEndless => "it follows a price without an end, for the same days and times".to_owned(),
        Reason::AfterBroken => "it follows a price with an invalid duration, for the same days and times".to_owned(),
        Reason::ChainTooLong => "the prices before it last too long, for the same days and times".to_owned(),
        Reason::Fault(Fault::Duration { .. }) => describe_field("rate_duration", rate, field("rate_duration")),
        Reason::Fault(Fault::Field(name)) => describe_field(name, rate, field(name)),
    }
}

fn describe_field(element: &str, rate: &Rate, name: &str) -> String {
    let position = document::RATE_FIELDS.iter().position(|field| *field == element).unwrap_or_default();
    let text = rate.fields()[position];
    let rule = match element {
        "rate_price" => "is no price such as 0.02",
        "rate_round_by" => "is no number of seconds, of 1 to 9 digits",
        "rate_duration" => "is no duration: seconds, at least the rounding; -1: without an end",
        "rate_type" => "is neither minute nor event",
        "rate_end_time" => "is no time from the start time to 24:00:00",
        "day_type" => "is neither WD nor FD nor empty",
        _ => "is no time such as 08:00:00",
    };
    format!("{name}: {text:?} {rule}")
}

fn report(imported: Imported<RefusedLines>, dry_run: bool) -> Report {
    let Imported { tariff_id, tariff_name, counts, refusals } = imported;
    let (refused, added) = (refusals.lines, counts.rates_written);
    let mut text: String =
        refused.iter().map(|refused| format!("line {}: {}\n", refused.line, refused.reason)).collect();
    text += &match (refused.len(), dry_run) {
        (0, false) => format!("The prices of the tariff {tariff_id} ({tariff_name}) were imported: added {added}."),
        (0, true) => format!("Nothing was written (--dry-run). The import would have: added {added}."),
        (lines, _) => format!("Nothing was written: lines refused: {lines}. The others would have: added {added}."),
    };
    let is_success = refused.is_empty();
    let json = json!({ "tariff": tariff_id, "tariff_name": tariff_name, "dry_run": dry_run, "added": added,
        "refused": refused });
    Report::new(text, json).fail_unless(is_success)
}
