//! Reads a request to the API: path, body within the limits, parameters, client address.

use std::mem;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{ConnectInfo, FromRequest, OriginalUri, Request};
use axum::http::{HeaderMap, Method, Uri, header};
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
use crate::http::path::routed_path;
use crate::http::reply::{ContentFormat, Refusal, ReplyFormat};
use crate::server::limits::RequestPermit;
use crate::state::AppState;

/// The route of a request to the API: a name of an operation, and whether an id follows it, as in
/// `/billing/api/card_group_get/6`.
#[derive(Debug, Clone, Copy)]
pub struct ApiRoute {
    /// The operation.
    pub operation: &'static Operation,
    /// The operation's name or one of its aliases.
    pub alias: &'static str,
    /// Whether the last segment of the path is the parameter `id`.
    pub has_id: bool,
}

/// The format that the suffix of the path names, such as `/billing/api/card_group_get.xml`.
#[derive(Debug, Clone, Copy)]
pub struct PathFormat(ContentFormat);

/// Rewrites the path for the router. The extension [`OriginalUri`] keeps the URI as it was sent.
pub fn rewrite_path(mut request: Request, dialect: Dialect) -> Request {
    let (path, suffix) = routed_path(request.uri().path(), dialect);
    let format = suffix.and_then(ContentFormat::from_name).map(PathFormat);
    if path != request.uri().path() {
        let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
        let mut parts = request.uri().clone().into_parts();
        parts.path_and_query = format!("{path}{query}").parse().ok();
        if let Ok(uri) = Uri::from_parts(parts) {
            let sent_uri = mem::replace(request.uri_mut(), uri);
            request.extensions_mut().insert(OriginalUri(sent_uri));
        }
    }
    if let Some(format) = format {
        request.extensions_mut().insert(format);
    }
    request
}

/// A request to the API, read within the limits. As an extractor it checks the method, the limits and earlier failed
/// attempts, in the order of the contract.
pub struct ApiRequest {
    /// The parameters from path, query string and body.
    pub params: Params,
    /// GET, POST or HEAD.
    pub method: Method,
    /// The URI as sent.
    pub uri: Uri,
    /// The request headers.
    pub headers: HeaderMap,
    /// The client's address, resolved through trusted proxies.
    pub client: IpAddr,
    /// The format of the reply that the request asks for, without the settings.
    pub format: ReplyFormat,
    /// The format that the suffix of the path names.
    pub path_format: Option<PathFormat>,
    /// The permits that the request holds while it is processed.
    pub permits: RequestPermits,
    /// The body of a request to an operation with a document, which is read after the admission if possible.
    pub unread_body: Option<Body>,
}

/// The permit for one of `max_requests`, and one for the memory of the body if it needs a permit.
pub type RequestPermits = (RequestPermit, Option<OwnedSemaphorePermit>);

impl FromRequest<Arc<AppState>> for ApiRequest {
    type Rejection = Refusal;

    async fn from_request(mut request: Request, state: &Arc<AppState>) -> Result<Self, Refusal> {
        let route = request.extensions().get::<ApiRoute>();
        let has_document = route.is_some_and(|route| route.operation.spec.document_parameter().is_some());
        let unread_body = has_document.then(|| mem::take(request.body_mut()));
        match read(state, &mut request).await {
            Ok((params, client, permits)) => Ok(Self {
                format: requested_format(state.config.dialect, &params, request.extensions().get()),
                path_format: request.extensions().get().copied(),
                unread_body,
                params,
                method: request.method().clone(),
                uri: match request.extensions_mut().remove() {
                    Some(OriginalUri(uri)) => uri,
                    None => mem::take(request.uri_mut()),
                },
                headers: mem::take(request.headers_mut()),
                client,
                permits,
            }),
            Err(error) => {
                let format = ReplyFormat::new(state.config.dialect).with_cached_settings(state).await;
                Err(Refusal { error, format })
            }
        }
    }
}

/// Reads the parameters, the client's address and the permits of a request.
async fn read(state: &AppState, request: &mut Request) -> Result<(Params, IpAddr, RequestPermits), ApiError> {
    if ![Method::GET, Method::POST, Method::HEAD].contains(request.method()) {
        return Err(ApiError::MethodNotAllowed);
    }
    let (body, body_permit) = read_body(state, mem::take(request.body_mut())).await?;
    // After the body: a client that sends slowly must not occupy a request permit.
    let permits = (state.load.acquire_request()?, body_permit);
    let has_id = request.extensions().get::<ApiRoute>().is_some_and(|route| route.has_id);
    let id = request.uri().path().rsplit('/').next().filter(|_| has_id);
    let id = id.map(|id| params::percent_decoded(id.as_bytes())).transpose()?;
    let (query, headers) = (request.uri().query().unwrap_or_default(), request.headers());
    if !body.is_empty() && is_encoded(headers) {
        return Err(ApiError::UnsupportedEncoding);
    }
    let is_ignored = !body.is_empty() && BodyFormat::from_headers(headers).is_none();
    let params = Params::read(id.as_deref(), query, headers, body, state.config.max_parameters.get()).await?;
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let peer = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0.ip());
    let client = client_addr::resolve(peer, headers, &state.config.trusted_proxies);
    if is_ignored {
        log_ignored_body(state, client, headers);
    }
    // Before any database query, so that a flood of failed attempts is refused at the lowest cost.
    state.attempts.check(AttemptKind::Login, client, params.get("u").unwrap_or_default(), Instant::now())?;
    Ok((params, client, permits))
}

/// Logs that a body has a type from which no parameters are read.
pub fn log_ignored_body(state: &AppState, client: IpAddr, headers: &HeaderMap) {
    if state.refusal_log.should_log(("body ignored", client), Instant::now()) {
        let content_type = headers.get(header::CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()));
        tracing::warn!(
            %client,
            content_type = ?content_type.unwrap_or_default().chars().take(LOGGED_CONTENT_TYPE_LEN_MAX).collect::<String>(),
            "body of this type ignored: send a form, multipart fields or JSON"
        );
    }
}

/// Returns the reply format that the request asks for. The caller adds what the settings decide.
pub fn requested_format(dialect: Dialect, params: &Params, path_format: Option<&PathFormat>) -> ReplyFormat {
    let sent_format = || params.get("format").and_then(ContentFormat::from_name);
    let content_format = path_format.map(|format| format.0).or_else(sent_format);
    ReplyFormat {
        test: params.integer("test") == 1,
        format: content_format.filter(|_| dialect.format_sets_content_type()),
        ..ReplyFormat::new(dialect)
    }
}

/// Characters of a content type in the log.
const LOGGED_CONTENT_TYPE_LEN_MAX: usize = 100;

/// Whether the body is compressed or encoded in another way.
pub fn is_encoded(headers: &HeaderMap) -> bool {
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

/// Reads and discards up to twice the limit, for at most 5 s, and returns [`ApiError::BodyTooLarge`]. A client that is
/// still sending when the connection closes may not receive the reply with the reason.
pub async fn drain_oversized(mut body: Body, max_body: usize) -> ApiError {
    const FRAME_TIMEOUT: Duration = Duration::from_millis(100);
    const TOTAL_TIMEOUT: Duration = Duration::from_secs(5);
    let end = tokio::time::Instant::now() + TOTAL_TIMEOUT;
    let mut remaining = max_body.saturating_mul(2);
    while tokio::time::Instant::now() < end
        && let Ok(Some(Ok(frame))) = tokio::time::timeout(FRAME_TIMEOUT, body.frame()).await
    {
        match remaining.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
            Some(rest) => remaining = rest,
            None => break,
        }
    }
    ApiError::BodyTooLarge
}

/// Returns the data of a frame of a body; empty for trailers.
pub fn frame_data(frame: Result<Frame<Bytes>, axum::Error>) -> Result<Bytes, ApiError> {
    let frame = frame.map_err(|_| ApiError::BadRequest("Request body is incomplete"))?;
    Ok(frame.into_data().unwrap_or_default())
}
