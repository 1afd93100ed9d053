//! What a request says: its path, its body within the limits, its parameters, its client.

use std::mem;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{ConnectInfo, Request};
use axum::http::Method;
use futures_util::FutureExt;
use http_body_util::BodyExt;
use hyper::body::Frame;
use tokio::sync::OwnedSemaphorePermit;

use crate::auth::attempt_limiter::AttemptKind;
use crate::dialect::Dialect;
use crate::error::ApiError;
use crate::http::client_addr;
use crate::http::context::Operation;
use crate::http::params::{self, Params};
use crate::http::reply::{ContentFormat, ReplyFormat};
use crate::operations::OPERATIONS;
use crate::server::limits::RequestPermit;
use crate::state::AppState;

/// What a path says: `/billing/api/card_group_get.xml`, `/api/card_group_get/6`.
#[derive(Debug)]
pub struct ApiPath {
    /// `None`: there is none of that name.
    pub operation: Option<&'static Operation>,
    /// The name by which it was called; empty where there is none.
    pub alias: &'static str,
    /// The segment behind the name, as sent.
    pub id: Option<String>,
    format: Option<ContentFormat>,
}

impl ApiPath {
    /// Reads a path below `prefix` or at the root.
    pub fn parse(path: &str, prefix: &str, suffixes: &[&str]) -> Self {
        let name = path.strip_prefix(prefix).and_then(|path| path.strip_prefix("/api/"));
        let rest = name.or_else(|| path.strip_prefix("/api/")).unwrap_or_default();
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let find = |name| OPERATIONS.iter().find_map(|operation| Some((operation, operation.find_name(name)?)));
        // Most say no more than the name.
        if let Some((operation, called)) = find(rest) {
            return Self { operation: Some(operation), alias: called, id: None, format: None };
        }
        let (rest, suffix) = match rest.rsplit_once('.') {
            Some((rest, suffix)) if suffixes.contains(&suffix) => (rest, Some(suffix)),
            _ => (rest, None),
        };
        let (name, id) = rest.split_once('/').map_or((rest, None), |(name, id)| (name, Some(id.to_owned())));
        let id = id.filter(|id| !id.is_empty());
        let deeper = id.as_deref().is_some_and(|id| id.contains('/'));
        let (operation, called) = find(name).filter(|_| !deeper).unzip();
        Self { operation, alias: called.unwrap_or_default(), id, format: suffix.and_then(ContentFormat::from_name) }
    }
}

/// What a request says besides its path, and from where.
pub(super) struct ApiRequest<'a> {
    pub params: Params,
    pub client: IpAddr,
    /// To run, and to be as large as it is.
    pub permits: (RequestPermit<'a>, Option<OwnedSemaphorePermit>),
}

impl<'a> ApiRequest<'a> {
    pub async fn read(state: &'a AppState, path: &ApiPath, request: &mut Request) -> Result<Self, ApiError> {
        if ![Method::GET, Method::POST, Method::HEAD].contains(request.method()) {
            return Err(ApiError::MethodNotAllowed);
        }
        let (body, memory) = read_body(state, mem::take(request.body_mut())).await?;
        // Only now: who sends slowly keeps nobody from running.
        let permits = (state.load.acquire_request()?, memory);
        let id = path.id.as_deref().map(|id| params::percent_decoded(id.as_bytes())).transpose()?;
        let (query, headers) = (request.uri().query().unwrap_or_default(), request.headers());
        let params = Params::read(id.as_deref(), query, headers, body, state.config.max_parameters.get()).await?;
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
        let peer = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0.ip());
        let client = client_addr::resolve(peer, headers, &state.config.trusted_proxies);
        // Here already, before the database is asked for anything: a flood of guesses costs as little as can be.
        state.attempts.check(AttemptKind::Login, client, params.get("u").unwrap_or_default(), Instant::now)?;
        Ok(Self { params, client, permits })
    }
}

/// A body, and the permit for its memory where it needs one.
type BodyWithPermit = (Bytes, Option<OwnedSemaphorePermit>);

/// The body, if it keeps to the limits.
async fn read_body(state: &AppState, mut body: Body) -> Result<BodyWithPermit, ApiError> {
    // Nearly always it has come along with the header.
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

/// The whole body after its first piece. The pieces are copied: one of a single byte would keep the buffer in which it came.
async fn read_remaining_body(state: &AppState, first: Bytes, mut body: Body) -> Result<BodyWithPermit, ApiError> {
    let most = state.config.max_body.get();
    let said = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if first.len().saturating_add(said) > most {
        return Err(drain_oversized(body, most).await);
    }
    let (mut whole, mut memory) = (first.to_vec(), None);
    state.load.reserve_body_bytes(&mut memory, 0, whole.len())?;
    while let Some(frame) = body.frame().await {
        let piece = frame_data(frame)?;
        let length = whole.len() + piece.len();
        if length > most {
            return Err(drain_oversized(body, most).await);
        }
        state.load.reserve_body_bytes(&mut memory, whole.len(), length)?;
        whole.extend_from_slice(&piece);
    }
    Ok((whole.into(), memory))
}

/// Reads on what keeps coming and forgets it, up to twice the limit: a client that is still sending when its connection ends may
/// not see why.
async fn drain_oversized(mut body: Body, most: usize) -> ApiError {
    const FRAME_TIMEOUT: Duration = Duration::from_millis(100);
    let mut left = most.saturating_mul(2);
    while let Ok(Some(Ok(frame))) = tokio::time::timeout(FRAME_TIMEOUT, body.frame()).await {
        match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
            Some(less) => left = less,
            None => break,
        }
    }
    ApiError::BodyTooLarge
}

fn frame_data(frame: Result<Frame<Bytes>, axum::Error>) -> Result<Bytes, ApiError> {
    let frame = frame.map_err(|_| ApiError::BadRequest("Request body is incomplete"))?;
    Ok(frame.into_data().unwrap_or_default())
}

/// How the request wants the reply to look; what the settings say of it comes later.
pub(super) fn reply_format(dialect: Dialect, path: &ApiPath, params: Option<&Params>) -> ReplyFormat {
    let named = || params.and_then(|params| params.get("format")).and_then(ContentFormat::from_name);
    ReplyFormat {
        test: params.is_some_and(|params| params.integer("test") == 1),
        xml_extension: false,
        format: if dialect.format_sets_content_type() { path.format.or_else(named) } else { None },
    }
}
