//! Exports cards with their PINs, as a file that the browser saves.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Query, State};
use futures_util::TryStreamExt;
use minijinja::context;
use serde::Deserialize;

use crate::back_office::export::{CardExport, ExportError, Format};
use crate::console::Console;
use crate::console::download::send_file;
use crate::console::error::ConsoleError;
use crate::console::form::ConfirmedForm;
use crate::console::pages::groups::{NumberFields, OwnGroup};
use crate::console::render::PageResult;
use crate::console::session::Session;

/// Characters of a batch number in the name of a file.
const NAME_LEN_MAX: usize = 60;

/// What a form proposes.
#[derive(Debug, Deserialize)]
pub(super) struct ExportQuery {
    group: i32,
    /// The batch number; empty: the whole group.
    #[serde(default)]
    number: String,
}

/// The cards to export, and the format.
#[derive(Debug, Deserialize)]
pub(super) struct ExportFields {
    group: i32,
    #[serde(default)]
    number: String,
    #[serde(flatten)]
    numbers: NumberFields,
    /// 1: only the cards that can be sold.
    #[serde(default)]
    free: String,
    format: String,
}

pub(super) async fn show(
    State(console): State<Arc<Console>>,
    session: Session,
    Query(query): Query<ExportQuery>,
) -> PageResult {
    let group = OwnGroup::find(&console.pool, &session, query.group).await?;
    let values = context! { group => group.id(), group_name => group.name(), number => query.number };
    console.render(&session, "export.html", values)
}

/// Sends the cards. The row of the change log is committed before the first PIN is read.
pub(super) async fn export(
    State(console): State<Arc<Console>>,
    ConfirmedForm(form): ConfirmedForm<ExportFields>,
) -> PageResult {
    let (session, fields) = (&form.session, &form.fields);
    if !session.may_reveal_pins() {
        let message = "An export has PINs. Your account may not show PINs. An operator can allow it: mortise console pins NAME on.";
        return Err(ConsoleError::Forbidden(message.to_owned()));
    }
    let group = OwnGroup::find(&console.pool, session, fields.group).await?;
    let (format, content_type, extension) = match fields.format.as_str() {
        "csv" => (Format::Csv, "text/csv; charset=utf-8", "csv"),
        "json" => (Format::Json, "application/json", "json"),
        "html" => (Format::html(None).map_err(to_failure)?, "text/html; charset=utf-8", "html"),
        _ => return Err(ConsoleError::Refused("Format: choose one from the list.".to_owned())),
    };
    let selection = group.select(&fields.number, &fields.numbers)?;
    form.confirm(&console).await?;
    let export = CardExport { selection, free_only: fields.free == "1" };
    let started = export.start(&console.pool, format, &session.author()).await?;
    let chunks = started.stream().map_ok(|chunk| Bytes::from(chunk.bytes));
    Ok(send_file(&file_name(&group, &fields.number, extension), content_type, chunks))
}

fn to_failure(error: ExportError) -> ConsoleError {
    ConsoleError::Failed(error.to_string())
}

/// Returns a name of characters that need no quotation marks.
fn file_name(group: &OwnGroup, batch_number: &str, extension: &str) -> String {
    let is_plain = |char: &char| char.is_ascii_alphanumeric() || matches!(char, '.' | '_' | '-');
    let batch: String = batch_number.chars().filter(is_plain).take(NAME_LEN_MAX).collect();
    let separator = if batch.is_empty() { "" } else { "-" };
    format!("cards-{}{separator}{batch}.{extension}", group.id())
}
