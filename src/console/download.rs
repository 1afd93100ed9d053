//! Files that browsers save.

use std::fmt::Display;

use axum::body::{Body, Bytes};
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, TryStreamExt};

/// Answers with a file, which is sent while it is written. `name` has no quotation mark. If writing fails, the
/// connection closes without the end of the body: an incomplete file must not look complete.
pub(super) fn send_file<E>(
    name: &str,
    content_type: &'static str,
    chunks: impl Stream<Item = Result<Bytes, E>> + Send + 'static,
) -> Response
where
    E: Display + Into<axum::BoxError> + 'static,
{
    let file = name.to_owned();
    let chunks = chunks.inspect_err(move |error| tracing::error!(%error, file, "download of the console aborted"));
    let disposition = format!("attachment; filename=\"{name}\"");
    let headers = [(CONTENT_TYPE, content_type.to_owned()), (CONTENT_DISPOSITION, disposition)];
    (headers, Body::from_stream(chunks)).into_response()
}
