//! Receives the body of a request with a document: a body of up to `max_import_body`, of which little is in memory.
//!
//! If user and hash are in the query string, the request is admitted before its body is read, else before the document
//! is parsed.

mod chunks;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::{Body, HttpBody};
use axum::http::header;
use futures_util::stream;
use tokio::sync::OwnedSemaphorePermit;

use self::chunks::{Chunks, TIMED_BYTES};
use crate::auth::admission;
use crate::auth::attempt_limiter::AttemptKind;
use crate::auth::caller::Caller;
use crate::error::ApiError;
use crate::http::context::CallContext;
use crate::http::document::{DocumentWriter, FormSplitter};
use crate::http::params::{BodyFormat, unreadable};
use crate::http::request::{RequestPermits, drain_oversized, is_encoded, log_ignored_body};
use crate::spool;
use crate::state::AppState;

/// The bytes of a multipart form in which a field or a part of its value must be found. What comes before the first
/// field, and the header of a field, stay in memory.
const UNPARSED_BYTES_MAX: usize = 64 * 1024;

/// Reads the body of the request, adds its parameters and its document to `call`, and admits the request. The permits
/// of the request are released while the body arrives: a client that sends slowly must not occupy them. Others are
/// returned with the caller.
///
/// # Errors
///
/// Those of the body and of the admission, and [`ApiError::Overloaded`] if `import_concurrency` is reached by imports
/// or by bodies that are received before the admission, or `max_requests` when the body is complete.
pub async fn admit(
    call: &mut CallContext,
    body: Body,
    permits: RequestPermits,
) -> Result<(Caller, RequestPermits), ApiError> {
    if !has_credentials(call) {
        drop(permits);
        let received = receive(call, body, None).await?;
        let permits = (call.state.load.acquire_request()?, received.body_permit);
        call.system_settings = call.state.accounts.settings(0).await?;
        // The user may have been in the body.
        call.check_attempt_limit(AttemptKind::Login)?;
        let caller = admission::admit(call).await?;
        add_import_permit(call, received.upload_permit)?;
        return Ok((caller, permits));
    }
    let admitted = match admission::admit(call).await {
        Ok(_) => call.state.load.acquire_import(),
        Err(error) => Err(error),
    };
    drop(permits);
    match admitted {
        Ok(import_permit) => {
            let received = receive(call, body, Some(UploadPermit::Import(import_permit))).await?;
            let permits = (call.state.load.acquire_request()?, received.body_permit);
            // Again: a password in the body has not been compared yet, and since the start of a long upload the user's
            // rights, keys or password may have changed.
            call.system_settings = call.state.accounts.settings(0).await?;
            let caller = admission::admit(call).await?;
            add_import_permit(call, received.upload_permit)?;
            Ok((caller, permits))
        }
        Err(error) => {
            // A client that waits for "100 Continue" has not sent the body yet.
            if !call.headers.contains_key(header::EXPECT) && !body.is_end_stream() {
                drain_oversized(body, call.state.config.max_body.get()).await;
            }
            Err(error)
        }
    }
}

/// Whether the query string has all that the admission needs.
fn has_credentials(call: &CallContext) -> bool {
    let is_sent = |name| call.params.get(name).is_some();
    is_sent("u") && is_sent("hash") && (is_sent("p") || !call.state.config.require_password)
}

/// The permit for a body of which a part is in a file.
enum UploadPermit {
    /// Of an admitted request: the permit of its import.
    Import(OwnedSemaphorePermit),
    /// Of a request whose user may be in the body: it takes no permit from the imports of admitted users.
    BeforeAdmission { _permit: OwnedSemaphorePermit },
}

/// Gives the document the permit of its import.
fn add_import_permit(call: &mut CallContext, permit: Option<UploadPermit>) -> Result<(), ApiError> {
    if let Some(document) = &mut call.document {
        document.permit = Some(match permit {
            Some(UploadPermit::Import(permit)) => Arc::new(permit),
            Some(UploadPermit::BeforeAdmission { .. }) | None => Arc::new(call.state.load.acquire_import()?),
        });
    }
    Ok(())
}

/// The permits that a received body holds.
struct Received {
    /// The permit of the upload, if there was one before or the document needed one.
    upload_permit: Option<UploadPermit>,
    /// The permit for the memory of the body.
    body_permit: Option<OwnedSemaphorePermit>,
}

/// Reads the body. After an error, a part of the remainder is read too: a client that is still sending when the
/// connection closes may not receive the reply with the reason.
async fn receive(
    call: &mut CallContext,
    mut body: Body,
    upload_permit: Option<UploadPermit>,
) -> Result<Received, ApiError> {
    let received = receive_parts(call, &mut body, upload_permit).await;
    if received.is_err() && !body.is_end_stream() {
        drain_oversized(body, call.state.config.max_body.get()).await;
    }
    received
}

/// Reads the body up to an error.
async fn receive_parts(
    call: &mut CallContext,
    body: &mut Body,
    upload_permit: Option<UploadPermit>,
) -> Result<Received, ApiError> {
    let Some(name) = call.operation.spec.document_parameter() else {
        return Ok(Received { upload_permit, body_permit: None });
    };
    if !body.is_end_stream() && is_encoded(&call.headers) {
        return Err(ApiError::UnsupportedEncoding);
    }
    // A document in the query string takes precedence.
    let in_query = call.params.take(name);
    let max_parameters = call.state.config.max_parameters.get();
    let mut chunks = Chunks::new(call, body)?;
    let mut memory = Memory { state: call.state.clone(), upload_permit, reserved: 0, body_permit: None };
    let headers = call.headers.clone();
    let mut document = match BodyFormat::from_headers(&headers) {
        Some(BodyFormat::Form) => {
            let form = memory.read_form(name, &mut chunks).await?;
            call.params.add_pairs(&form.others, max_parameters)?;
            form.document
        }
        Some(BodyFormat::Multipart(content_type)) => {
            let (fields, document) = memory.read_multipart(name, content_type, &mut chunks).await?;
            call.params.add_fields(fields, max_parameters)?;
            document
        }
        format @ (Some(BodyFormat::Json) | None) => {
            let body = memory.read_small(&mut chunks).await?;
            if format.is_none() && !body.is_empty() {
                log_ignored_body(&call.state, call.client, &headers);
            }
            call.params.add_body(&headers, body.into(), max_parameters).await?;
            call.params.take(name).map(|text| memory.document_of(&text)).transpose()?
        }
    };
    if let Some(text) = in_query {
        document = Some(memory.document_of(&text)?);
    }
    if let Some(document) = document {
        call.document = Some(blocking(move || document.finish()).await?);
    }
    Ok(Received { upload_permit: memory.upload_permit, body_permit: memory.body_permit })
}

/// An error of the body, as it passes the reader of multipart forms.
#[derive(Debug, thiserror::Error)]
#[error("{0:?}")]
struct BodyError(ApiError);

/// The memory that a body uses.
struct Memory {
    state: Arc<AppState>,
    upload_permit: Option<UploadPermit>,
    /// Bytes that are reserved by `body_permit`.
    reserved: usize,
    body_permit: Option<OwnedSemaphorePermit>,
}

impl Memory {
    /// Counts the memory for parameters and for the document, and moves a large document to its file.
    async fn make_room(&mut self, params_len: usize, document: &mut Option<DocumentWriter>) -> Result<(), ApiError> {
        if params_len > self.state.config.max_body.get() {
            return Err(ApiError::BodyTooLarge);
        }
        let used = params_len + document.as_ref().map_or(0, |document| document.spool.memory_len());
        if used > self.reserved {
            self.state.load.reserve_body_bytes(&mut self.body_permit, self.reserved, used)?;
            self.reserved = used;
        }
        let Some(mut writer) = document.take_if(|document| document.spool.is_full()) else { return Ok(()) };
        if self.upload_permit.is_none() {
            let permit = self.state.load.acquire_unadmitted_upload()?;
            self.upload_permit = Some(UploadPermit::BeforeAdmission { _permit: permit });
        }
        *document = Some(blocking(move || writer.spool.spill().map(|()| writer)).await?);
        Ok(())
    }

    async fn read_form(&mut self, name: &'static str, chunks: &mut Chunks<'_>) -> Result<FormSplitter, ApiError> {
        let mut form = FormSplitter::new(name, self.state.temp_dir.clone());
        while let Some(chunk) = chunks.next().await? {
            // A chunk can be larger than the part of the document that stays in memory.
            for part in chunk.chunks(TIMED_BYTES) {
                form.push(part)?;
                self.make_room(form.others.len(), &mut form.document).await?;
            }
        }
        form.finish()?;
        Ok(form)
    }

    /// Reads a multipart form. A file counts as the document too if its field has that name; other files are skipped.
    async fn read_multipart(
        &mut self,
        name: &'static str,
        content_type: &str,
        chunks: &mut Chunks<'_>,
    ) -> Result<(Vec<(String, String)>, Option<DocumentWriter>), ApiError> {
        let boundary = multer::parse_boundary(content_type).map_err(|_| MALFORMED_MULTIPART)?;
        let unparsed_bytes = Arc::new(AtomicUsize::new(0));
        let stream = stream::try_unfold(
            (chunks, unparsed_bytes.clone()),
            async |(chunks, unparsed_bytes): (&mut Chunks<'_>, Arc<AtomicUsize>)| {
                // multer takes all chunks that are ready into memory: each is ready only after a pause.
                tokio::task::yield_now().await;
                let Some(chunk) = chunks.next_gathered().await.map_err(BodyError)? else { return Ok(None) };
                if unparsed_bytes.fetch_add(chunk.len(), Ordering::Relaxed) > UNPARSED_BYTES_MAX {
                    return Err(BodyError(MALFORMED_MULTIPART));
                }
                Ok(Some((chunk, (chunks, unparsed_bytes))))
            },
        );
        let mut form = multer::Multipart::new(stream, boundary);
        let (mut document, mut fields, mut fields_len) = (None, Vec::new(), 0);
        while let Some(mut field) = form.next_field().await.map_err(multipart_error)? {
            unparsed_bytes.store(0, Ordering::Relaxed);
            let is_document = field.name() == Some(name);
            let is_file = field.file_name().is_some();
            let field_name = field.name().map(|name| if is_file { unreadable(name) } else { name.to_owned() });
            if is_document {
                document = Some(DocumentWriter::new(self.state.temp_dir.clone()));
            }
            let mut value = Vec::new();
            while let Some(chunk) = field.chunk().await.map_err(multipart_error)? {
                unparsed_bytes.store(0, Ordering::Relaxed);
                for part in chunk.chunks(TIMED_BYTES) {
                    match document.as_mut().filter(|_| is_document) {
                        Some(document) => document.push(part)?,
                        None if !is_file && field_name.is_some() => value.extend_from_slice(part),
                        None => {}
                    }
                    self.make_room(fields_len + value.len(), &mut document).await?;
                }
            }
            if let Some(field_name) = field_name.filter(|_| !is_document) {
                fields_len += field_name.len() + value.len();
                let value = String::from_utf8(value);
                fields.push((field_name, value.map_err(|_| ApiError::BadRequest("Parameters are not valid UTF-8"))?));
                self.make_room(fields_len, &mut document).await?;
            }
            if fields.len() > self.state.config.max_parameters.get() {
                break;
            }
        }
        Ok((fields, document))
    }

    /// Reads a body of up to `max_body`.
    async fn read_small(&mut self, chunks: &mut Chunks<'_>) -> Result<Vec<u8>, ApiError> {
        let mut body = Vec::new();
        while let Some(chunk) = chunks.next().await? {
            body.extend_from_slice(&chunk);
            self.make_room(body.len(), &mut None).await?;
        }
        Ok(body)
    }

    fn document_of(&self, text: &str) -> Result<DocumentWriter, ApiError> {
        let mut document = DocumentWriter::new(self.state.temp_dir.clone());
        document.push(text.as_bytes()).map(|()| document)
    }
}

const MALFORMED_MULTIPART: ApiError = ApiError::BadRequest("Multipart body is malformed");

fn multipart_error(error: multer::Error) -> ApiError {
    match error {
        multer::Error::StreamReadFailed(error) => {
            error.downcast::<BodyError>().map_or(MALFORMED_MULTIPART, |error| error.0)
        }
        _ => MALFORMED_MULTIPART,
    }
}

/// Runs work that may wait for the disk.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, ApiError> {
    spool::blocking(work).await.map_err(ApiError::from_file_error)
}
