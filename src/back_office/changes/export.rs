//! The change log as CSV, with a line for each changed field.

use axum::body::Bytes;
use futures_util::{Stream, stream};
use sqlx::PgPool;

use super::{FoundChange, Search};
use crate::back_office::export::guard_formula;
use crate::number;
use crate::store::pages::PAGE_ROWS;

const HEADINGS: [&str; 12] = [
    "id",
    "time_utc",
    "who",
    "operator",
    "user_id",
    "request_id",
    "kind",
    "target_id",
    "target",
    "field",
    "before",
    "after",
];

/// An export of what a search finds. Between two pages it holds no connection.
#[derive(Debug)]
pub struct Export {
    pool: PgPool,
    search: Search,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Headings,
    Rows,
    Finished,
}

impl Export {
    /// Creates the export.
    pub fn new(pool: PgPool, search: Search) -> Self {
        Self { pool, search, state: State::Headings }
    }

    /// Streams the file.
    pub fn into_stream(self) -> impl Stream<Item = sqlx::Result<Bytes>> + Send {
        stream::try_unfold(self, |mut export| async move {
            let chunk = export.next_chunk().await?;
            Ok(chunk.map(|chunk| (chunk, export)))
        })
    }

    async fn next_chunk(&mut self) -> sqlx::Result<Option<Bytes>> {
        match self.state {
            State::Headings => {
                self.state = State::Rows;
                Ok(Some(write_lines([HEADINGS.map(str::to_owned)])?))
            }
            State::Rows => {
                let rows = self.search.read(&self.pool, PAGE_ROWS).await?;
                match rows.last() {
                    Some(last) => self.search.continue_before(last),
                    None => self.state = State::Finished,
                }
                write_lines(rows.iter().flat_map(lines)).map(Some)
            }
            State::Finished => Ok(None),
        }
    }
}

/// Returns the lines of a row: one for each changed field, at least one.
fn lines(change: &FoundChange) -> Vec<[String; 12]> {
    let text = |text: Option<&str>| guard_formula(text.unwrap_or_default()).into_owned();
    let value = |value: Option<&str>| match value {
        Some(amount) if number::is_decimal(amount) => amount.to_owned(),
        value => text(value),
    };
    let number = |number: Option<i64>| number.map(|number| number.to_string()).unwrap_or_default();
    let line = |field: &str, before: Option<&str>, after: Option<&str>| {
        [
            change.id.to_string(),
            change.at.clone(),
            text(Some(&change.who)),
            text(change.operator.as_deref()),
            number(change.user_id.map(i64::from)),
            text(change.request_id.as_deref()),
            change.what.clone(),
            number(change.target_id),
            text(change.target_name.as_deref()),
            text(Some(field)),
            value(before),
            value(after),
        ]
    };
    match change.fields.is_empty() {
        true => vec![line("", None, None)],
        false => change
            .fields
            .iter()
            .map(|(field, before, after)| line(field, before.as_deref(), after.as_deref()))
            .collect(),
    }
}

fn write_lines(lines: impl IntoIterator<Item = [String; 12]>) -> sqlx::Result<Bytes> {
    let mut csv = csv::Writer::from_writer(Vec::new());
    let to_error = |error: csv::Error| sqlx::Error::Io(std::io::Error::other(error));
    for line in lines {
        csv.write_record(&line).map_err(to_error)?;
    }
    let bytes = csv.into_inner().map_err(|error| sqlx::Error::Io(std::io::Error::other(error.to_string())))?;
    Ok(bytes.into())
}
