//! The way of a request to its operation, and of the reply back.

use std::convert::Infallible;
use std::mem;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::Response;
use axum::routing::future::RouteFuture;
use axum::routing::{MethodRouter, get};
use futures_util::FutureExt;
use futures_util::future::Either;
use tower::util::MapRequestLayer;
use tower::{Layer, Service, service_fn};
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use tower_http::set_header::SetResponseHeaderLayer;

use crate::accounts::Setting;
use crate::dialect::Dialect;
use crate::error::Fault;
use crate::http::context::Call;
use crate::http::monitoring;
use crate::http::openapi;
use crate::http::reply::{self, Presentation};
use crate::http::request::{Incoming, Path, presentation};
use crate::operations::OPERATIONS;
use crate::state::App;
use crate::telemetry::log;
use crate::xml::Document;

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
    let router =
        router.fallback(api).with_state(app.clone()).merge(monitoring::health(app.clone())).layer(layers.clone());
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
