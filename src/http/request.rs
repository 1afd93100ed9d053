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

use crate::auth::attempt_limiter::Guess;
use crate::dialect::Dialect;
use crate::error::Fault;
use crate::http::client_addr;
use crate::http::context::Operation;
use crate::http::params::{self, Params};
use crate::http::reply::{Format, Presentation};
use crate::operations::OPERATIONS;
use crate::server::limits::Running;
use crate::state::App;

/// What a path says: `/billing/api/card_group_get.xml`, `/api/card_group_get/6`.
#[derive(Debug)]
pub struct Path {
    /// `None`: there is none of that name.
    pub operation: Option<&'static Operation>,
    /// The name by which it was called; empty where there is none.
    pub called: &'static str,
    /// The segment behind the name, as sent.
    pub id: Option<String>,
    format: Option<Format>,
}

impl Path {
    /// Reads a path below `prefix` or at the root.
    pub fn read(path: &str, prefix: &str, suffixes: &[&str]) -> Self {
        let name = path.strip_prefix(prefix).and_then(|path| path.strip_prefix("/api/"));
        let rest = name.or_else(|| path.strip_prefix("/api/")).unwrap_or_default();
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let find = |name| OPERATIONS.iter().find_map(|operation| Some((operation, operation.called(name)?)));
        // Most say no more than the name.
        if let Some((operation, called)) = find(rest) {
            return Self { operation: Some(operation), called, id: None, format: None };
        }
        let (rest, suffix) = match rest.rsplit_once('.') {
            Some((rest, suffix)) if suffixes.contains(&suffix) => (rest, Some(suffix)),
            _ => (rest, None),
        };
        let (name, id) = rest.split_once('/').map_or((rest, None), |(name, id)| (name, Some(id.to_owned())));
        let id = id.filter(|id| !id.is_empty());
        let deeper = id.as_deref().is_some_and(|id| id.contains('/'));
        let (operation, called) = find(name).filter(|_| !deeper).unzip();
        Self { operation, called: called.unwrap_or_default(), id, format: suffix.and_then(Format::named) }
    }
}

/// What a request says besides its path, and from where.
pub(super) struct Incoming<'a> {
    pub params: Params,
    pub client: IpAddr,
    /// To run, and to be as large as it is.
    pub permits: (Running<'a>, Option<OwnedSemaphorePermit>),
}

impl<'a> Incoming<'a> {
    pub async fn read(app: &'a App, path: &Path, request: &mut Request) -> Result<Self, Fault> {
        if ![Method::GET, Method::POST, Method::HEAD].contains(request.method()) {
            return Err(Fault::MethodNotAllowed);
        }
        let (body, memory) = whole(app, mem::take(request.body_mut())).await?;
        // Only now: who sends slowly keeps nobody from running.
        let permits = (app.load.request()?, memory);
        let id = path.id.as_deref().map(|id| params::unescaped(id.as_bytes())).transpose()?;
        let (query, headers) = (request.uri().query().unwrap_or_default(), request.headers());
        let params = Params::read(id.as_deref(), query, headers, body, app.config.max_parameters.get()).await?;
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
        let peer = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0.ip());
        let client = client_addr::address(peer, headers, &app.config.trusted_proxies);
        // Here already, before the database is asked for anything: a flood of guesses costs as little as can be.
        app.guessing.check(Guess::Login, client, params.get("u").unwrap_or_default(), Instant::now)?;
        Ok(Self { params, client, permits })
    }
}

/// A body, and the permit for its memory where it needs one.
type Whole = (Bytes, Option<OwnedSemaphorePermit>);

/// The body, if it keeps to the limits.
async fn whole(app: &App, mut body: Body) -> Result<Whole, Fault> {
    // Nearly always it has come along with the header.
    let first = match body.frame().now_or_never() {
        Some(None) => return Ok((Bytes::new(), None)),
        Some(Some(frame)) => data(frame)?,
        None => Bytes::new(),
    };
    if body.is_end_stream() && first.len() <= app.config.max_body.get() {
        return Ok((first, None));
    }
    let rest = Box::pin(tokio::time::timeout(app.config.body, rest(app, first, body)));
    rest.await.unwrap_or(Err(Fault::BodyTooSlow))
}

/// The whole body after its first piece. The pieces are copied: one of a single byte would keep the buffer in which it came.
async fn rest(app: &App, first: Bytes, mut body: Body) -> Result<Whole, Fault> {
    let most = app.config.max_body.get();
    let said = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if first.len().saturating_add(said) > most {
        return Err(too_large(body, most).await);
    }
    let (mut whole, mut memory) = (first.to_vec(), None);
    app.load.body(&mut memory, 0, whole.len())?;
    while let Some(frame) = body.frame().await {
        let piece = data(frame)?;
        let length = whole.len() + piece.len();
        if length > most {
            return Err(too_large(body, most).await);
        }
        app.load.body(&mut memory, whole.len(), length)?;
        whole.extend_from_slice(&piece);
    }
    Ok((whole.into(), memory))
}

/// Reads on what keeps coming and forgets it, up to twice the limit: a client that is still sending when its connection ends may
/// not see why.
async fn too_large(mut body: Body, most: usize) -> Fault {
    const MOMENT: Duration = Duration::from_millis(100);
    let mut left = most.saturating_mul(2);
    while let Ok(Some(Ok(frame))) = tokio::time::timeout(MOMENT, body.frame()).await {
        match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
            Some(less) => left = less,
            None => break,
        }
    }
    Fault::BodyTooLarge
}

fn data(frame: Result<Frame<Bytes>, axum::Error>) -> Result<Bytes, Fault> {
    let frame = frame.map_err(|_| Fault::BadRequest("Request body is incomplete"))?;
    Ok(frame.into_data().unwrap_or_default())
}

/// How the request wants the reply to look; what the settings say of it comes later.
pub(super) fn presentation(dialect: Dialect, path: &Path, params: Option<&Params>) -> Presentation {
    let named = || params.and_then(|params| params.get("format")).and_then(Format::named);
    Presentation {
        test: params.is_some_and(|params| params.integer("test") == 1),
        xml_extension: false,
        format: if dialect.format_chooses_type() { path.format.or_else(named) } else { None },
    }
}
