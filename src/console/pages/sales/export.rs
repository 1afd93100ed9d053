//! The list of payments as CSV.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use sqlx::PgPool;

use super::selection::{Fields, Selection};
use crate::back_office::export::guard_formula;
use crate::back_office::reports::payments::{PaymentList, PaymentRow, Position};
use crate::console::Console;
use crate::console::download::send_file;
use crate::console::form::ConfirmedForm;
use crate::console::render::PageResult;
use crate::store::pages::{LIST_DURATION_MAX, PageReader, stream_pages};

/// The payments that are read at once.
const ROWS_MAX: usize = 1_000;

const HEADINGS: [&str; 13] = [
    "id",
    "date_utc",
    "kind",
    "card_id",
    "number",
    "group",
    "user",
    "currency",
    "amount",
    "tax",
    "tax_included",
    "reference",
    "description",
];

/// Sends all payments that the fields select, the newest first, while they are read.
pub(super) async fn export(
    State(console): State<Arc<Console>>,
    ConfirmedForm(mut form): ConfirmedForm<Fields>,
) -> PageResult {
    let Selection { period, filter } = Selection::find(&console, &form.session, &mut form.fields).await?;
    form.confirm(&console).await?;
    let name = format!("sales-{}-{}.csv", period.from, period.to);
    let list = PaymentList { period, filter };
    let reader = CsvReader { pool: console.pool.clone(), list, next: Next::Headings };
    Ok(send_file(&name, "text/csv; charset=utf-8", stream_pages(reader, LIST_DURATION_MAX)))
}

/// Reads the payments as CSV, in pages.
struct CsvReader {
    pool: PgPool,
    list: PaymentList,
    next: Next,
}

/// What comes next.
enum Next {
    Headings,
    /// The payments behind a position, or from the newest on.
    Payments(Option<Position>),
    End,
}

impl PageReader for CsvReader {
    /// The lines of a page.
    type Row = Bytes;

    async fn next_page(&mut self) -> sqlx::Result<Option<Vec<Bytes>>> {
        let lines = match std::mem::replace(&mut self.next, Next::End) {
            Next::Headings => {
                self.next = Next::Payments(None);
                write_lines([HEADINGS.map(str::to_owned)])?
            }
            Next::Payments(start) => {
                let page = self.list.read_page(&self.pool, start, ROWS_MAX, Duration::MAX).await?;
                self.next = page.next.map_or(Next::End, |next| Next::Payments(Some(next)));
                write_lines(page.rows.into_iter().map(cells))?
            }
            Next::End => return Ok(None),
        };
        Ok(Some(vec![lines]))
    }
}

/// Returns the cells of a line. Texts of clients are guarded against formulas.
fn cells(row: PaymentRow) -> [String; 13] {
    let text = |text: Option<String>| text.map(|text| guard_formula(&text).into_owned()).unwrap_or_default();
    [
        row.id.to_string(),
        row.date,
        row.kind,
        row.card_id.map(|id| id.to_string()).unwrap_or_default(),
        text(row.number),
        text(row.group),
        text(row.user),
        text(Some(row.currency)),
        row.amount.to_plain_string(),
        row.tax.to_plain_string(),
        if row.tax_included { "yes" } else { "no" }.to_owned(),
        text(row.reference),
        text(row.description),
    ]
}

fn write_lines(lines: impl IntoIterator<Item = [String; 13]>) -> sqlx::Result<Bytes> {
    let mut csv = csv::Writer::from_writer(Vec::new());
    let to_error = |error: csv::Error| sqlx::Error::Io(error.into());
    for line in lines {
        csv.write_record(line).map_err(to_error)?;
    }
    let bytes = csv.into_inner().map_err(|error| sqlx::Error::Io(error.into_error()))?;
    Ok(bytes.into())
}
