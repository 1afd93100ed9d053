//! Forms with a file, such as a list of cards. The file goes to the directory for temporary files as it arrives.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_stream::try_stream;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::HeaderMap;
use futures_util::Stream;
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};

use super::Console;
use super::error::ConsoleError;
use super::form::Form;
use super::session::Session;
use crate::http::params::BodyFormat;
use crate::http::request::drain_oversized;
use crate::spool::{Spool, Spooled, blocking};

/// Maximum length of a form with its file, in bytes.
pub const UPLOAD_BYTES_MAX: usize = 64 << 20;
/// The part of a form that must arrive within `body_timeout_ms`, in bytes.
const TIMED_BYTES: usize = 1 << 20;
/// Maximum length of the other fields, and of what comes before the first field, in bytes. Both stay in memory.
const FIELD_BYTES_MAX: usize = 64 << 10;

/// A form of the session with one file: `<form method="post" enctype="multipart/form-data">`.
#[derive(Debug)]
pub struct Upload<T> {
    /// The other fields, token and id of the form included.
    pub form: Form<T>,
    /// The file. It is not empty.
    pub file: Spooled,
    /// Of [`Console::uploads`], until the handler ends.
    _permit: OwnedSemaphorePermit,
}

impl<T: DeserializeOwned> FromRequest<Arc<Console>> for Upload<T> {
    type Rejection = ConsoleError;

    async fn from_request(request: Request, console: &Arc<Console>) -> Result<Self, ConsoleError> {
        let (mut parts, mut body) = request.into_parts();
        let session = Session::from_request_parts(&mut parts, console).await?;
        let received = match console.uploads.clone().try_acquire_owned() {
            Ok(permit) => receive(console, &parts.headers, &mut body).await.map(|received| (received, permit)),
            Err(_) => Err(ConsoleError::Busy("Other files are being sent. Try again in a minute.".to_owned())),
        };
        if received.is_err() && !body.is_end_stream() {
            // A browser that is still sending when the connection closes does not show the page with the reason.
            drain_oversized(body, UPLOAD_BYTES_MAX).await;
        }
        let ((fields, file), permit) = received?;
        let fields: Bytes = serde_urlencoded::to_string(fields).map_err(malformed)?.into();
        let form = Form::read(session, &fields)?;
        let is_empty = |file: &Spooled| file.in_memory().is_some_and(Bytes::is_empty);
        match file.filter(|file| !is_empty(file)) {
            Some(file) => Ok(Self { form, file, _permit: permit }),
            None => Err(ConsoleError::Refused("Choose a file that is not empty.".to_owned())),
        }
    }
}

/// Reads the fields and the file.
async fn receive(
    console: &Console,
    headers: &HeaderMap,
    body: &mut Body,
) -> Result<(Vec<(String, String)>, Option<Spooled>), ConsoleError> {
    if body.size_hint().lower() > UPLOAD_BYTES_MAX as u64 {
        return Err(ConsoleError::TooLarge(UPLOAD_BYTES_MAX >> 20));
    }
    let Some(BodyFormat::Multipart(content_type)) = BodyFormat::from_headers(headers) else {
        return Err(malformed("the form has no file"));
    };
    let boundary = multer::parse_boundary(content_type).map_err(malformed)?;
    let unparsed_bytes = Arc::new(AtomicUsize::new(0));
    let chunks = chunks(body, console.app.config.body_timeout, unparsed_bytes.clone());
    let mut form = multer::Multipart::new(chunks, boundary);
    let (mut fields, mut fields_len, mut file) = (Vec::new(), 0, None);
    while let Some(mut field) = form.next_field().await.map_err(multipart_error)? {
        unparsed_bytes.store(0, Ordering::Relaxed);
        let name = field.name().unwrap_or_default().to_owned();
        if field.file_name().is_none() {
            let mut value = Vec::new();
            while let Some(chunk) = field.chunk().await.map_err(multipart_error)? {
                unparsed_bytes.store(0, Ordering::Relaxed);
                fields_len += chunk.len();
                if fields_len > FIELD_BYTES_MAX {
                    return Err(malformed("a field is too long"));
                }
                value.extend_from_slice(&chunk);
            }
            fields_len += name.len();
            fields.push((name, String::from_utf8(value).map_err(malformed)?));
        } else if file.is_some() {
            return Err(malformed("it has more than one file"));
        } else {
            let mut spool = Spool::new(console.app.temp_dir.clone());
            while let Some(chunk) = field.chunk().await.map_err(multipart_error)? {
                unparsed_bytes.store(0, Ordering::Relaxed);
                spool.write_all(&chunk).map_err(disk_error)?;
                if spool.is_full() {
                    spool = blocking(move || spool.spill().map(|()| spool)).await.map_err(disk_error)?;
                }
            }
            file = Some(blocking(move || spool.finish()).await.map_err(disk_error)?);
        }
        if fields_len > FIELD_BYTES_MAX {
            return Err(malformed("the form has too many fields"));
        }
    }
    Ok((fields, file))
}

/// Returns the chunks of the body, up to [`UPLOAD_BYTES_MAX`]: each [`TIMED_BYTES`] within the timeout.
/// `unparsed_bytes`: those since the last part of a field
/// was found; the reader of the form keeps them in memory.
fn chunks(
    body: &mut Body,
    timeout: Duration,
    unparsed_bytes: Arc<AtomicUsize>,
) -> impl Stream<Item = Result<Bytes, ConsoleError>> + Send {
    try_stream! {
        let (mut received, mut deadline) = (0, Instant::now() + timeout);
        loop {
            // The reader of the form takes all chunks that are ready into memory: each is ready only after a pause.
            tokio::task::yield_now().await;
            let frame = timeout_at(deadline, body.frame()).await.map_err(|_| ConsoleError::BodyTimeout)?;
            let Some(frame) = frame else { break };
            let chunk = frame.map_err(malformed)?.into_data().unwrap_or_default();
            if (received + chunk.len()) / TIMED_BYTES > received / TIMED_BYTES {
                deadline = Instant::now() + timeout;
            }
            received += chunk.len();
            if received > UPLOAD_BYTES_MAX {
                Err::<(), _>(ConsoleError::TooLarge(UPLOAD_BYTES_MAX >> 20))?;
            }
            if unparsed_bytes.fetch_add(chunk.len(), Ordering::Relaxed) > FIELD_BYTES_MAX {
                Err::<(), _>(malformed("it is not a form with a file"))?;
            }
            yield chunk;
        }
    }
}

fn multipart_error(error: multer::Error) -> ConsoleError {
    match error {
        multer::Error::StreamReadFailed(error) => match error.downcast::<ConsoleError>() {
            Ok(error) => *error,
            Err(error) => malformed(error),
        },
        error => malformed(error),
    }
}

fn malformed(error: impl ToString) -> ConsoleError {
    ConsoleError::Malformed(error.to_string())
}

fn disk_error(error: std::io::Error) -> ConsoleError {
    ConsoleError::Failed(format!("cannot write a temporary file: {error}"))
}
