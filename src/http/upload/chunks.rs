//! The body of an upload, in chunks.

use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};

use crate::error::ApiError;
use crate::http::context::CallContext;
use crate::http::request::frame_data;

/// The part of a body that must arrive within `body_timeout_ms`, in bytes.
pub(super) const TIMED_BYTES: usize = 1024 * 1024;
/// Bytes that are parsed at once, if the body does not end before. Each search for the end of a field starts again at
/// the beginning of what is in memory.
const PARSED_BYTES_MIN: usize = 16 * 1024;

/// The body, as it arrives within `max_import_body` and `body_timeout_ms`.
pub(super) struct Chunks<'a> {
    body: &'a mut Body,
    bytes_max: usize,
    timeout: Duration,
    received: usize,
    /// When the next [`TIMED_BYTES`] must be complete.
    deadline: Option<Instant>,
}

impl<'a> Chunks<'a> {
    pub(super) fn new(call: &CallContext, body: &'a mut Body) -> Result<Self, ApiError> {
        let config = &call.state.config;
        let (bytes_max, timeout) = (config.max_import_body.get(), config.body_timeout);
        let announced_len = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
        if announced_len > bytes_max {
            return Err(ApiError::BodyTooLarge);
        }
        Ok(Self { body, bytes_max, timeout, received: 0, deadline: None })
    }

    /// Returns the next bytes.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        let deadline = *self.deadline.get_or_insert_with(|| Instant::now() + self.timeout);
        let frame = timeout_at(deadline, self.body.frame()).await.map_err(|_| ApiError::BodyTimeout)?;
        let Some(chunk) = frame.map(frame_data).transpose()? else { return Ok(None) };
        let received = self.received + chunk.len();
        if received > self.bytes_max {
            return Err(ApiError::BodyTooLarge);
        }
        if received / TIMED_BYTES > self.received / TIMED_BYTES {
            self.deadline = None;
        }
        self.received = received;
        Ok(Some(chunk))
    }

    /// Returns the next bytes: at least [`PARSED_BYTES_MIN`], except at the end.
    pub(super) async fn next_gathered(&mut self) -> Result<Option<Bytes>, ApiError> {
        let Some(first) = self.next().await? else { return Ok(None) };
        if first.len() >= PARSED_BYTES_MIN {
            return Ok(Some(first));
        }
        let mut gathered = first.to_vec();
        while gathered.len() < PARSED_BYTES_MIN
            && let Some(chunk) = self.next().await?
        {
            gathered.extend_from_slice(&chunk);
        }
        Ok(Some(gathered.into()))
    }
}
