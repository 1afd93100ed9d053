//! The formats of an export.

use std::borrow::Cow;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use minijinja::Value;

use super::sheet::{SheetTemplate, card_variables};
use super::{BackOfficeError, ExportedCard};
use crate::input;
use crate::pin::Pin;

/// The header line of a CSV file. It is written even if no card follows.
const HEADINGS: [&str; 12] = [
    "number",
    "pin",
    "balance",
    "sold",
    "batch_number",
    "language",
    "name",
    "callerid",
    "id",
    "serial",
    "first_use",
    "daily_charge_paid_till",
];

/// The format of an export.
#[derive(Debug)]
pub enum Format {
    /// A line for each card. Cells that a spreadsheet would read as a formula begin with an apostrophe.
    Csv,
    /// An array of objects.
    Json,
    /// Sheets to print, by a template.
    Html(Box<SheetTemplate>),
}

/// Why an export fails.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "described by the error messages")]
pub enum ExportError {
    #[error(transparent)]
    BackOffice(#[from] BackOfficeError),
    /// The output failed; a closed pipe is no failure of the export.
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("cannot read the template {0}: {1}")]
    UnreadableTemplate(String, io::Error),
    #[error("the template is invalid: {0:#}")]
    InvalidTemplate(#[from] minijinja::Error),
    #[error("the template must set cards_per_page to a number from 1 to 1000: {{% set cards_per_page = 10 %}}")]
    NoCardsPerPage,
}

impl From<sqlx::Error> for ExportError {
    fn from(error: sqlx::Error) -> Self {
        BackOfficeError::from(error).into()
    }
}

impl Format {
    /// Creates the format for sheets, by the template in a file, or by the built-in one.
    ///
    /// # Errors
    ///
    /// If the template cannot be read or rendered.
    pub fn html(template: Option<&Path>) -> Result<Self, ExportError> {
        let text = match template {
            Some(path) => Some(
                input::read_file(path)
                    .map_err(|error| ExportError::UnreadableTemplate(path.display().to_string(), error))?,
            ),
            None => None,
        };
        Ok(Self::Html(Box::new(SheetTemplate::new(text)?)))
    }
}

/// The text that is not sent yet.
#[derive(Debug, Clone, Default)]
pub(super) struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Buffer {
    /// Takes the text out of the buffer.
    pub(super) fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Write for Buffer {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes cards in a format into a buffer.
pub(super) enum Writer<'a> {
    Csv(Box<csv::Writer<Buffer>>),
    Json { output: Buffer, is_empty: bool },
    Html { template: &'a SheetTemplate, output: Buffer, page: Vec<Value>, pages: usize },
}

impl<'a> Writer<'a> {
    pub(super) fn start(format: &'a Format, mut output: Buffer) -> Result<Self, ExportError> {
        Ok(match format {
            Format::Csv => {
                let mut csv = csv::WriterBuilder::new().has_headers(false).from_writer(output);
                csv.write_record(HEADINGS).map_err(to_io_error)?;
                Self::Csv(Box::new(csv))
            }
            Format::Json => {
                output.write_all(b"[")?;
                Self::Json { output, is_empty: true }
            }
            Format::Html(template) => Self::Html { template, output, page: Vec::new(), pages: 0 },
        })
    }

    pub(super) fn write(&mut self, group: &str, card: ExportedCard) -> Result<(), ExportError> {
        match self {
            Self::Csv(csv) => csv.serialize(without_formulas(card)).map_err(to_io_error)?,
            Self::Json { output, is_empty } => {
                output.write_all(if *is_empty { b"\n" } else { b",\n" })?;
                *is_empty = false;
                serde_json::to_writer(output, &card).map_err(io::Error::from)?;
            }
            Self::Html { template, output, page, pages } => {
                // A full page is written when another card follows: the template knows whether a page is the last one.
                if page.len() == template.cards_per_page() {
                    *pages += 1;
                    output.write_all(template.render(std::mem::take(page), *pages, false)?.as_bytes())?;
                }
                page.push(card_variables(group, &card));
            }
        }
        Ok(())
    }

    /// Writes everything into the buffer.
    pub(super) fn flush(&mut self) -> Result<(), ExportError> {
        if let Self::Csv(csv) = self {
            csv.flush()?;
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Result<(), ExportError> {
        match self {
            Self::Csv(mut csv) => csv.flush()?,
            Self::Json { mut output, is_empty } => output.write_all(if is_empty { b"]\n" } else { b"\n]\n" })?,
            Self::Html { template, mut output, page, pages } => {
                output.write_all(template.render(page, pages + 1, true)?.as_bytes())?;
            }
        }
        Ok(())
    }
}

/// Returns the error of the output that a CSV writer reports.
fn to_io_error(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        _ => io::Error::other("cannot write a record as CSV"),
    }
}

/// Puts an apostrophe before a text that a spreadsheet would read as a formula.
pub fn guard_formula(text: &str) -> Cow<'_, str> {
    // Some spreadsheets ignore what is invisible before the sign, and read full-width signs as plain ones.
    let is_ignored = |char: char| char.is_whitespace() || char == '\u{feff}';
    let is_formula = text.trim_start_matches(is_ignored).starts_with(['=', '+', '-', '@', '＝', '＋', '－', '＠']);
    match is_formula || text.starts_with(['\t', '\r', '\n']) {
        true => format!("'{text}").into(),
        false => text.into(),
    }
}

/// Guards each text of a card.
fn without_formulas(card: ExportedCard) -> ExportedCard {
    let guard = |text: Option<String>| text.map(|text| guard_formula(&text).into_owned());
    ExportedCard {
        number: guard(card.number),
        pin: card.pin.map(|pin| Pin::from(guard_formula(pin.expose()).into_owned())),
        batch_number: guard(card.batch_number),
        language: guard(card.language),
        name: guard(card.name),
        callerid: guard(card.callerid),
        serial: guard(card.serial),
        ..card
    }
}
