//! Imports the cards of a CSV file, for example from a printer, into a card group: all of them or none.
//!
//! The lines are copied into a temporary table, where PostgreSQL compares them with each other and with the cards. The
//! memory that an import needs does not depend on the number of lines, nor on how many of them are refused.

mod line;
mod line_breaks;
mod table;

use std::io::{ErrorKind, Read};

use csv::StringRecord;
use serde::Serialize;
use serde_json::json;
use sqlx::PgConnection;

use self::line::{CardLine, Header};
use self::line_breaks::{LINE_BYTES_MAX, LineBreaks, UnfinishedLine};
use super::BackOfficeError;
use super::selection::group_not_found;
use crate::store::bulk_create::{self, Group};
use crate::store::change_log::{Author, Change, Target, What};

/// Lines in one statement.
const BATCH_LINES: usize = 5_000;
/// Lines that are read before other work of the thread runs.
const LINES_AT_ONCE: u64 = 500;
/// Refused lines that an outcome names. Further ones are only counted.
pub const REFUSED_LINES_MAX: usize = 1_000;

/// A file to import.
#[derive(Debug)]
pub struct CardImport<Source> {
    /// The CSV file.
    pub source: Source,
    /// The id of the card group.
    pub group: i32,
    /// Whether the lines are only checked.
    pub is_dry_run: bool,
    /// The batch number of the lines that have none. It can be empty.
    pub batch_number: String,
    /// Maximum number of lines with cards. `None`: any number.
    pub lines_max: Option<u32>,
    /// Whether the author must not learn the numbers and PINs of cards: lines with used ones are not named, and a file
    /// with such lines leaves a row of the change log.
    pub hides_used: bool,
}

/// The outcome of an import.
#[derive(Debug, Default, Serialize)]
pub struct ImportOutcome {
    /// Lines with cards in the file.
    pub lines: u64,
    /// Cards that were created: all or none.
    pub created: u64,
    /// The lowest number of the accepted lines.
    pub first: Option<String>,
    /// The highest number of the accepted lines.
    pub last: Option<String>,
    /// Why the lines together cannot be imported.
    pub problem: Option<String>,
    /// The first [`REFUSED_LINES_MAX`] refused lines, in the order of the file. A line can be refused for several
    /// reasons.
    pub refused: Vec<RefusedLine>,
    /// How many reasons there are to refuse lines. Without those that are hidden.
    pub refused_count: u64,
    /// Whether a card has a number or a PIN of the file already.
    pub has_used: bool,
}

/// A line that cannot be imported.
#[derive(Debug, Serialize)]
pub struct RefusedLine {
    /// Counts lines of the file, from 1 on.
    pub line: i64,
    /// Why, without the PIN.
    pub reason: String,
}

/// How far an import is.
#[derive(Debug, Clone, Copy)]
pub enum Progress {
    /// Bytes of the file that were read.
    Read(u64),
    /// The lines are compared with each other and with the cards.
    Checking,
    /// Cards that were created, of how many.
    Created(u64, u64),
}

impl ImportOutcome {
    /// Whether every line can be imported.
    pub fn is_accepted(&self) -> bool {
        self.refused_count == 0 && self.problem.is_none() && !self.has_used
    }

    /// Refuses a line that follows all refused ones.
    fn refuse(&mut self, line: u64, reason: impl Into<String>) {
        self.refused_count += 1;
        if self.refused.len() < REFUSED_LINES_MAX {
            self.refused.push(RefusedLine { line: i64::try_from(line).unwrap_or(i64::MAX), reason: reason.into() });
        }
    }
}

impl<Source: Read> CardImport<Source> {
    /// Imports the file, in the caller's transaction. Nothing is created if a line is refused.
    ///
    /// # Errors
    ///
    /// [`BackOfficeError::NotFound`] if the card group does not exist, [`BackOfficeError::Refused`] if the file as a
    /// whole cannot be read, or a card took a number or PIN at the same time.
    pub async fn run(
        self,
        connection: &mut PgConnection,
        author: &Author,
        mut progress: impl FnMut(Progress),
    ) -> Result<ImportOutcome, BackOfficeError> {
        // A million cards take longer than the timeout for requests.
        sqlx::raw_sql("set local statement_timeout = '1h'").execute(&mut *connection).await?;
        let (group, is_dry_run, hides_used) = (self.group, self.is_dry_run, self.hides_used);
        let group = Group::find(&mut *connection, group.into(), None).await?.ok_or_else(|| group_not_found(group))?;
        table::create(&mut *connection).await?;
        let mut outcome = self.read_lines(&mut *connection, &group, &mut progress).await?;
        if outcome.lines == 0 {
            return Err(BackOfficeError::refused("the file has no line with a card"));
        }
        progress(Progress::Checking);
        if !is_dry_run {
            bulk_create::lock_bulk_create(&mut *connection).await?;
        }
        table::check(&mut *connection, &group, &mut outcome, hides_used).await?;
        if outcome.has_used && hides_used {
            record_used(&mut *connection, &group, &outcome, author).await?;
        }
        if outcome.is_accepted() && !is_dry_run {
            table::create_cards(&mut *connection, &group, &mut outcome, progress).await?;
            record(connection, &group, &outcome, author).await?;
        }
        Ok(outcome)
    }

    /// Copies the valid lines into the temporary table.
    async fn read_lines(
        self,
        connection: &mut PgConnection,
        group: &Group,
        progress: &mut impl FnMut(Progress),
    ) -> Result<ImportOutcome, BackOfficeError> {
        let mut outcome = ImportOutcome::default();
        let unfinished = UnfinishedLine::default();
        let source = LineBreaks::new(self.source, unfinished.clone());
        let mut csv = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(source);
        let mut record = StringRecord::new();
        let header = match csv.read_record(&mut record) {
            Ok(true) => Header::read(&record).map_err(BackOfficeError::Refused)?,
            Ok(false) => return Err(BackOfficeError::refused("the file is empty")),
            Err(error) if matches!(error.kind(), csv::ErrorKind::Utf8 { .. }) => {
                return Err(BackOfficeError::refused("the file is not UTF-8 (a file in UTF-16?): save it as UTF-8"));
            }
            Err(error) => return Err(unreadable(&error, 1)),
        };
        let mut batch = Vec::new();
        loop {
            let result = csv.read_record(&mut record);
            // The position after the record. That before it can be of a blank line, which the reader passes over.
            let broken: u64 = record.iter().flat_map(str::bytes).map(|byte| u64::from(byte == b'\n')).sum();
            // The field with a quotation mark that is not closed has the rest of the file.
            let has_rest = record.iter().next_back().is_some_and(|field| field.ends_with('\n'));
            let is_unclosed = csv.get_ref().is_exhausted() && has_rest;
            let line = csv.position().line().saturating_sub(broken + u64::from(!is_unclosed));
            unfinished.finish();
            match result {
                Ok(true) => {
                    outcome.lines += 1;
                    if let Some(lines_max) = self.lines_max.filter(|max| outcome.lines > u64::from(*max)) {
                        return Err(BackOfficeError::refused(format!(
                            "The file has more than {lines_max} cards. Split it, or use mortise cards import on the server."
                        )));
                    }
                    match CardLine::read(&record, &header, group, &self.batch_number) {
                        _ if is_unclosed => outcome.refuse(line, "a quotation mark is not closed"),
                        Ok(card) => batch.push((line, card)),
                        Err(reason) => outcome.refuse(line, reason),
                    }
                }
                Ok(false) => break,
                Err(error) if matches!(error.kind(), csv::ErrorKind::Utf8 { .. }) => {
                    outcome.lines += 1;
                    outcome.refuse(line, "the line is not UTF-8");
                }
                Err(error) => return Err(unreadable(&error, csv.position().line())),
            }
            if outcome.lines % LINES_AT_ONCE == 0 {
                tokio::task::yield_now().await;
            }
            if batch.len() == BATCH_LINES {
                table::insert_lines(&mut *connection, std::mem::take(&mut batch)).await?;
                progress(Progress::Read(csv.position().byte()));
            }
        }
        table::insert_lines(connection, batch).await?;
        Ok(outcome)
    }
}

/// The error of a file that cannot be read from this line on.
fn unreadable(error: &csv::Error, line: u64) -> BackOfficeError {
    BackOfficeError::Refused(match error.kind() {
        csv::ErrorKind::Io(error) if error.kind() == ErrorKind::FileTooLarge => format!(
            "line {line} has more than {LINE_BYTES_MAX} bytes without an end: is a quotation mark missing, or is this \
             no CSV file?"
        ),
        _ => format!("cannot read the CSV file: {error}"),
    })
}

async fn record(
    connection: &mut PgConnection,
    group: &Group,
    outcome: &ImportOutcome,
    author: &Author,
) -> sqlx::Result<()> {
    let (Some(first), Some(last)) = (&outcome.first, &outcome.last) else { return Ok(()) };
    let after = json!({ "cards_imported": outcome.created });
    let change = Change {
        what: What::Card,
        target: Target::Cards { group: group.id, first, last },
        before: None,
        after: Some(after.to_string()),
    };
    change.record(connection, author).await
}

/// Records that the author may have learned that cards have some numbers or PINs of the file.
async fn record_used(
    connection: &mut PgConnection,
    group: &Group,
    outcome: &ImportOutcome,
    author: &Author,
) -> sqlx::Result<()> {
    let name = sqlx::query_scalar!("select name from cardgroups where id = $1", group.id);
    let name = name.fetch_optional(&mut *connection).await?.unwrap_or_default();
    let after = json!({ "import_refused": "numbers or PINs are used already", "lines": outcome.lines });
    let change = Change {
        what: What::CardGroup,
        target: Target::Row { id: group.id.into(), name: &name },
        before: None,
        after: Some(after.to_string()),
    };
    change.record(connection, author).await
}
