//! The whole API on one page: its operations, and the way of a request to one of them and back.

use std::convert::Infallible;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::Response;
use axum::routing::future::RouteFuture;
use axum::routing::{MethodRouter, get};
use futures_util::FutureExt;
use futures_util::future::Either;
use http_body_util::BodyExt;
use hyper::body::Frame;
use tokio::sync::OwnedSemaphorePermit;
use tower::util::MapRequestLayer;
use tower::{Layer, Service, service_fn};
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use tower_http::set_header::SetResponseHeaderLayer;

use crate::api::{card, card_group, tariff};
use crate::app::App;
use crate::call::{Call, Operation};
use crate::client;
use crate::dialect::Dialect;
use crate::directory::Setting;
use crate::document::Document;
use crate::fault::Fault;
use crate::guessing::Guess;
use crate::load::Running;
use crate::log;
use crate::openapi;
use crate::params::{self, Params};
use crate::reply::{self, Format, Presentation};
use crate::watch;

/// Every operation; its file says the rest.
#[rustfmt::skip]
pub const OPERATIONS: &[Operation] = &[
    card::sell::OPERATION,
    card::by_cli::OPERATION,
    card::create::OPERATION,
    card::list::OPERATION,
    card::update::OPERATION,
    card::balance::OPERATION,
    card::pay::OPERATION,
    card_group::create::OPERATION,
    card_group::get::OPERATION,
    card_group::list::OPERATION,
    card_group::update::OPERATION,
    tariff::wholesale_update::OPERATION,
];

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Everything that is served: the API and its document under the prefix and under `/api`, `/livez` and `/readyz`.
///
/// A request to the API goes straight to it. The router, which would box it twice on its way, has the others, unknown paths among them,
/// which the API refuses.
#[derive(Debug, Clone)]
pub struct Front<S> {
    api: S,
    router: Router,
    prefix: Arc<str>,
}

/// What a server answers with.
pub fn front(app: Arc<App>) -> Front<impl Serve<Future: Send>> {
    // As one layer, from the outermost in: each by itself would cost each request half a dozen allocations.
    let layers = (
        MapRequestLayer::new(only_sound_id),
        SetRequestIdLayer::new(REQUEST_ID, MakeRequestUuid),
        PropagateRequestIdLayer::new(REQUEST_ID),
        SetResponseHeaderLayer::overriding(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        SetResponseHeaderLayer::overriding(CACHE_CONTROL, HeaderValue::from_static("no-store")),
    );
    let prefix: Arc<str> = app.config.prefix.as_str().into();
    let mut router = Router::new().route(openapi::PATH, document(&prefix));
    if !prefix.is_empty() {
        router = router.route(&format!("{prefix}{}", openapi::PATH), document(&prefix));
    }
    let router = router.fallback(api).with_state(app.clone()).merge(watch::health(app.clone())).layer(layers.clone());
    // In a box: it is large, and on its way out each layer would move it.
    let api = layers.layer(service_fn(move |request| Box::pin(api(State(app.clone()), request)).map(Ok)));
    Front { api, router, prefix }
}

/// What answers requests, whatever they are.
pub trait Serve: Service<Request, Response = Response, Error = Infallible> + Clone + Send + Sync + 'static {}

impl<S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + Sync + 'static> Serve for S {}

impl<S: Serve> Service<Request> for Front<S> {
    type Response = Response;
    type Error = Infallible;
    type Future = Either<S::Future, RouteFuture<Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.api.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let path = request.uri().path();
        let name = path.strip_prefix(&*self.prefix).unwrap_or(path);
        if (name.starts_with("/api/") || path.starts_with("/api/")) && !path.ends_with(openapi::PATH) {
            Either::Left(self.api.call(request))
        } else {
            Either::Right(self.router.call(request))
        }
    }
}

/// The OpenAPI document, the same for everybody.
fn document<S: Clone + Send + Sync + 'static>(prefix: &str) -> MethodRouter<S> {
    let document = openapi::document(OPERATIONS, prefix).to_json().map(Bytes::from);
    let document = document.inspect_err(|error| tracing::error!(%error, "the OpenAPI document can't be written")).ok();
    get(async move || {
        document.map(|text| ([(CONTENT_TYPE, "application/json")], text)).ok_or(StatusCode::INTERNAL_SERVER_ERROR)
    })
}

/// An id that a client or a proxy chose goes into each line of the log: one that doesn't look like an id is replaced.
fn only_sound_id(mut request: Request) -> Request {
    let is_sound = |id: &[u8]| (1..=128).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic);
    if request.headers().get(REQUEST_ID).is_some_and(|id| !is_sound(id.as_bytes())) {
        request.headers_mut().remove(REQUEST_ID);
    }
    request
}

/// A request to the API: answered, counted, and each line that the log has of it with its id.
fn api(State(app): State<Arc<App>>, mut request: Request) -> impl Future<Output = Response> + Send {
    let since = Instant::now();
    let path = Path::read(request.uri().path(), &app.config.prefix, app.config.dialect.suffixes());
    let operation = path.operation.map(|operation| operation.name);
    let worked_at = log::Request { id: request.headers().get(REQUEST_ID).cloned(), operation };
    #[cfg(feature = "otlp")]
    let traced = app.traces.begin(operation, request.headers());
    log::about(worked_at, async move {
        let answered = AssertUnwindSafe(answer(&app, &path, &mut request)).catch_unwind().await;
        let (outcome, response) = answered.unwrap_or_else(|_| panicked(app.config.dialect));
        let took = since.elapsed();
        app.figures.answered(operation, outcome, took);
        #[cfg(feature = "otlp")]
        traced.answered(outcome, response.status());
        tracing::debug!(target: "mortise::request", outcome, status = response.status().as_u16(), ?took, "answered");
        response
    })
}

/// The reply to a request that made us panic.
fn panicked(dialect: Dialect) -> (&'static str, Response) {
    tracing::error!("a request made the server panic");
    let mut response = reply::response(Err(Fault::TransactionFailed), Presentation::default(), dialect);
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    ("panic", response)
}

/// From a request's bytes to the bytes of the reply, and in a word what came of it. The request is taken apart where it stands: in
/// futures each hand that a thing goes through keeps room for it.
async fn answer(app: &Arc<App>, path: &Path, request: &mut Request) -> (&'static str, Response) {
    let dialect = app.config.dialect;
    let is_head = request.method() == Method::HEAD;
    let incoming = Incoming::read(app, path, request).await;
    let params = incoming.as_ref().ok().map(|incoming| &incoming.params);
    let mut presentation = presentation(dialect, path, params);
    let result = match (path.operation, incoming) {
        (Some(operation), Ok(Incoming { params, client, permits: _permits })) => {
            match app.directory.settings(0).await {
                Ok(system) => {
                    presentation.xml_extension = system.on(Setting::XmlApiExtension);
                    let (method, uri) = (request.method().clone(), mem::take(request.uri_mut()));
                    let (headers, called) = (mem::take(request.headers_mut()), path.called);
                    let call =
                        Call { app: app.clone(), operation, called, params, system, method, uri, headers, client };
                    (operation.handler)(&call).await
                }
                Err(error) => Err(error.into()),
            }
        }
        // A refusal that needs no database doesn't wait for it.
        (operation, incoming) => {
            presentation.xml_extension =
                app.directory.settings_at_hand(0).await.is_some_and(|system| system.on(Setting::XmlApiExtension));
            Err(operation.and(incoming.err()).unwrap_or(Fault::UnknownOperation))
        }
    };
    // An X7 server shows this one answer as HTML whatever the settings say.
    if path.operation.is_none() && presentation.test && dialect.format_chooses_type() {
        presentation = Presentation { test: true, ..Presentation::default() };
    }
    let outcome = match &result {
        Ok(Document::Repeated(_)) => "repeated",
        Ok(_) => "done",
        Err(fault) => fault.into(),
    };
    let response = reply::response(result, presentation, dialect);
    (outcome, if is_head { reply::head(response) } else { response })
}

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
struct Incoming<'a> {
    params: Params,
    client: IpAddr,
    /// To run, and to be as large as it is.
    permits: (Running<'a>, Option<OwnedSemaphorePermit>),
}

impl<'a> Incoming<'a> {
    async fn read(app: &'a App, path: &Path, request: &mut Request) -> Result<Self, Fault> {
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
        let client = client::address(peer, headers, &app.config.trusted_proxies);
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
fn presentation(dialect: Dialect, path: &Path, params: Option<&Params>) -> Presentation {
    let named = || params.and_then(|params| params.get("format")).and_then(Format::named);
    Presentation {
        test: params.is_some_and(|params| params.integer("test") == 1),
        xml_extension: false,
        format: if dialect.format_chooses_type() { path.format.or_else(named) } else { None },
    }
}
