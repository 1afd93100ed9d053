//! Reads a request to the API: path, body within the limits, parameters, client address.

use std::mem;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{ConnectInfo, Request};
use axum::http::{HeaderMap, Method, header};
use futures_util::FutureExt;
use http_body_util::BodyExt;
use hyper::body::Frame;
use tokio::sync::OwnedSemaphorePermit;

use crate::auth::attempt_limiter::AttemptKind;
use crate::dialect::Dialect;
use crate::error::ApiError;
use crate::http::client_addr;
use crate::http::context::Operation;
use crate::http::params::{self, BodyFormat, Params};
use crate::http::reply::{ContentFormat, ReplyFormat};
use crate::operations::OPERATIONS;
use crate::server::limits::RequestPermit;
use crate::state::AppState;

/// A parsed path, such as `/billing/api/card_group_get.xml` or `/api/card_group_get/6`.
#[derive(Debug)]
pub struct ApiPath {
    /// `None`: no operation has this name.
    pub operation: Option<&'static Operation>,
    /// The name or alias in the path; empty without an operation.
    pub alias: &'static str,
    /// The segment after the name, as sent.
    pub id: Option<String>,
    format: Option<ContentFormat>,
}

impl ApiPath {
    /// Parses a path below `prefix` or below the root.
    pub fn parse(path: &str, prefix: &str, suffixes: &[&str]) -> Self {
        let name = path.strip_prefix(prefix).and_then(|path| path.strip_prefix("/api/"));
        let rest = name.or_else(|| path.strip_prefix("/api/")).unwrap_or_default();
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let find = |name| OPERATIONS.iter().find_map(|operation| Some((operation, operation.find_name(name)?)));
        // Most paths end with the name.
        if let Some((operation, alias)) = find(rest) {
            return Self { operation: Some(operation), alias, id: None, format: None };
        }
        let (rest, suffix) = match rest.rsplit_once('.') {
            Some((rest, suffix)) if suffixes.contains(&suffix) => (rest, Some(suffix)),
            _ => (rest, None),
        };
        let (name, id) = rest.split_once('/').map_or((rest, None), |(name, id)| (name, Some(id.to_owned())));
        let id = id.filter(|id| !id.is_empty());
        let has_more_segments = id.as_deref().is_some_and(|id| id.contains('/'));
        let (operation, alias) = find(name).filter(|_| !has_more_segments).unzip();
        Self { operation, alias: alias.unwrap_or_default(), id, format: suffix.and_then(ContentFormat::from_name) }
    }
}

/// Returns the path with each run of slashes replaced by one. `None`: the path has no such run.
pub fn with_single_slashes(path: &str) -> Option<String> {
    path.as_bytes().windows(2).any(|pair| pair == [b'/'; 2]).then(|| {
        path.chars().fold(String::new(), |mut single, char| {
            if char != '/' || !single.ends_with('/') {
                single.push(char);
            }
            single
        })
    })
}

/// A request without its path, with the permits that it holds while it is processed.
pub(super) struct ApiRequest<'a> {
    pub params: Params,
    pub client: IpAddr,
    /// The permit for one of `max_requests`, and one for the memory of the body if it needs a permit.
    pub permits: (RequestPermit<'a>, Option<OwnedSemaphorePermit>),
}

impl<'a> ApiRequest<'a> {
    /// Reads the body and the parameters. Checks the method, the limits and earlier failed attempts, in the order of
    /// the contract.
    pub async fn read(state: &'a AppState, path: &ApiPath, request: &mut Request) -> Result<Self, ApiError> {
        if ![Method::GET, Method::POST, Method::HEAD].contains(request.method()) {
            return Err(ApiError::MethodNotAllowed);
        }
        let (body, body_permit) = read_body(state, mem::take(request.body_mut())).await?;
        // After the body: a client that sends slowly must not occupy a request permit.
        let permits = (state.load.acquire_request()?, body_permit);
        let id = path.id.as_deref().map(|id| params::percent_decoded(id.as_bytes())).transpose()?;
        let (query, headers) = (request.uri().query().unwrap_or_default(), request.headers());
        if !body.is_empty() && is_encoded(headers) {
            return Err(ApiError::UnsupportedEncoding);
        }
        let is_ignored = !body.is_empty() && BodyFormat::from_headers(headers).is_none();
        let params = Params::read(id.as_deref(), query, headers, body, state.config.max_parameters.get()).await?;
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
        let peer = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0.ip());
        let client = client_addr::resolve(peer, headers, &state.config.trusted_proxies);
        if is_ignored && state.refusal_log.should_log(("body ignored", client), Instant::now()) {
            let content_type = headers.get(header::CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()));
            tracing::warn!(
                %client,
                content_type = ?content_type.unwrap_or_default().chars().take(LOGGED_CONTENT_TYPE_LEN_MAX).collect::<String>(),
                "body of this type ignored: send a form, multipart fields or JSON"
            );
        }
        // Before any database query, so that a flood of failed attempts is refused at the lowest cost.
        state.attempts.check(AttemptKind::Login, client, params.get("u").unwrap_or_default(), Instant::now)?;
        Ok(Self { params, client, permits })
    }
}

/// Characters of a content type in the log.
const LOGGED_CONTENT_TYPE_LEN_MAX: usize = 100;

/// Whether the body is compressed or encoded in another way.
fn is_encoded(headers: &HeaderMap) -> bool {
    let mut encodings = headers.get_all(header::CONTENT_ENCODING).into_iter();
    encodings.any(|encoding| !encoding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity"))
}

/// A body, and the permit for its memory if it needs one.
type BodyWithPermit = (Bytes, Option<OwnedSemaphorePermit>);

/// Reads the body within `max_body`, `max_body_memory` and `body_timeout_ms`.
async fn read_body(state: &AppState, mut body: Body) -> Result<BodyWithPermit, ApiError> {
    // Nearly always the body arrived together with the header.
    let first = match body.frame().now_or_never() {
        Some(None) => return Ok((Bytes::new(), None)),
        Some(Some(frame)) => frame_data(frame)?,
        None => Bytes::new(),
    };
    if body.is_end_stream() && first.len() <= state.config.max_body.get() {
        return Ok((first, None));
    }
    let rest = Box::pin(tokio::time::timeout(state.config.body_timeout, read_remaining_body(state, first, body)));
    rest.await.unwrap_or(Err(ApiError::BodyTimeout))
}

/// Reads the body after its first chunk and returns both. Chunks are copied: a `Bytes` of one byte would keep its whole
/// receive buffer in memory.
async fn read_remaining_body(state: &AppState, first: Bytes, mut body: Body) -> Result<BodyWithPermit, ApiError> {
    let max_body = state.config.max_body.get();
    let announced_len = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if first.len().saturating_add(announced_len) > max_body {
        return Err(drain_oversized(body, max_body).await);
    }
    let (mut buffer, mut permit) = (first.to_vec(), None);
    state.load.reserve_body_bytes(&mut permit, 0, buffer.len())?;
    while let Some(frame) = body.frame().await {
        let chunk = frame_data(frame)?;
        let length = buffer.len() + chunk.len();
        if length > max_body {
            return Err(drain_oversized(body, max_body).await);
        }
        state.load.reserve_body_bytes(&mut permit, buffer.len(), length)?;
        buffer.extend_from_slice(&chunk);
    }
    Ok((buffer.into(), permit))
}

/// Reads and discards up to twice the limit, and returns [`ApiError::BodyTooLarge`]. A client that is still sending
/// when the connection closes may not receive the reply with the reason.
async fn drain_oversized(mut body: Body, max_body: usize) -> ApiError {
    const FRAME_TIMEOUT: Duration = Duration::from_millis(100);
    let mut remaining = max_body.saturating_mul(2);
    while let Ok(Some(Ok(frame))) = tokio::time::timeout(FRAME_TIMEOUT, body.frame()).await {
        match remaining.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
            Some(rest) => remaining = rest,
            None => break,
        }
    }
    ApiError::BodyTooLarge
}

fn frame_data(frame: Result<Frame<Bytes>, axum::Error>) -> Result<Bytes, ApiError> {
    let frame = frame.map_err(|_| ApiError::BadRequest("Request body is incomplete"))?;
    Ok(frame.into_data().unwrap_or_default())
}

/// Returns the reply format that the request asks for. The caller sets `xml_extension`, which comes from the settings.
pub(super) fn reply_format(dialect: Dialect, path: &ApiPath, params: Option<&Params>) -> ReplyFormat {
    let format_param = || params.and_then(|params| params.get("format")).and_then(ContentFormat::from_name);
    ReplyFormat {
        test: params.is_some_and(|params| params.integer("test") == 1),
        xml_extension: false,
        format: if dialect.format_sets_content_type() { path.format.or_else(format_param) } else { None },
    }
}
