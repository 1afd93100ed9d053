//! The router: all routes, and the layers that every request passes.
//!
//! ```text
//! server::listener          accepts the TCP connection; hyper parses HTTP
//!   │
//! request::rewrite_path     single slashes, no slash at the end, no suffix
//! Router                    request id and security headers for all routes
//!   ├─ /, /livez, /readyz, /api/openapi.json
//!   ├─ /api/NAME, {prefix}/api/NAME, with or without /ID, for each name and alias of OPERATIONS:
//!   │    observe            log context, metrics, tracing span, panics
//!   │      ├─ Authorized    extractor: ApiRequest (method, body, limits, parameters, client), then auth::admission
//!   │      └─ execute       operations/…: the operation's handler, then reply::build_response
//!   └─ fallback             observe, then the refusal of an unknown operation
//! ```
//!
//! Every refusal is an [`ApiError`], and `reply::build_response` renders it. `docs/architecture.md` ("Order of
//! refusal") lists the checks in their order.

use std::any::Any;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::handler::Handler;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{MethodRouter, any, get};
use axum::{Extension, Router};
use tower::util::MapRequestLayer;
use tower::{Layer, Service};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use tower_http::set_header::SetResponseHeaderLayer;
use tracing::Instrument;

use crate::dialect::Dialect;
use crate::error::ApiError;
use crate::http::authorized::Authorized;
use crate::http::index;
use crate::http::monitoring;
use crate::http::openapi;
use crate::http::reply::{self, Outcome, Refusal, ReplyFormat};
use crate::http::request::{self, ApiRequest, ApiRoute};
use crate::operations::OPERATIONS;
use crate::state::AppState;
use crate::telemetry::log;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The outcome of a request whose handler panicked.
const PANIC: Outcome = Outcome("panic");

/// Builds the service of the main listener: the API and its OpenAPI document, below the prefix and below `/api`, and
/// the health checks `/livez` and `/readyz`.
pub fn build_service(state: Arc<AppState>) -> impl HttpService<Future: Send> {
    let (dialect, prefix) = (state.config.dialect, state.config.prefix.as_str());
    let observe = (
        middleware::from_fn_with_state(state.clone(), observe),
        CatchPanicLayer::custom(move |_: Box<dyn Any + Send>| panic_response(dialect)),
    );
    let mut api = Router::new().route(openapi::ROUTE, openapi_route(prefix));
    for operation in OPERATIONS {
        for alias in operation.names() {
            // Any method: the extractor refuses other methods than GET, HEAD and POST.
            let route = |has_id| {
                any(Authorized::execute).layer((Extension(ApiRoute { operation, alias, has_id }), observe.clone()))
            };
            api = api.route(&format!("/{alias}"), route(false)).route(&format!("/{alias}/{{id}}"), route(true));
        }
    }
    let mut router = Router::new().nest("/api", api.clone());
    if !prefix.is_empty() {
        router = router.nest(&format!("{prefix}/api"), api);
    }
    let unknown = unknown_operation.layer(observe);
    let router = router
        .route("/", index::route(prefix).fallback(unknown.clone()))
        .fallback(unknown)
        .with_state(state.clone())
        .merge(monitoring::health_router(state))
        .layer((
            MapRequestLayer::new(validate_request_id),
            SetRequestIdLayer::new(X_REQUEST_ID, MakeRequestUuid),
            PropagateRequestIdLayer::new(X_REQUEST_ID),
            SetResponseHeaderLayer::overriding(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
            SetResponseHeaderLayer::overriding(CACHE_CONTROL, HeaderValue::from_static("no-store")),
        ));
    MapRequestLayer::new(move |request| request::rewrite_path(request, dialect)).layer(router)
}

/// A service that the listener can serve: it answers every request and is cloned for each connection.
pub trait HttpService:
    Service<Request, Response = Response, Error = Infallible> + Clone + Send + Sync + 'static
{
}

impl<S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + Sync + 'static> HttpService for S {}

/// The route of the OpenAPI document, which is serialized once.
fn openapi_route<S: Clone + Send + Sync + 'static>(prefix: &str) -> MethodRouter<S> {
    let document = openapi::build_document(OPERATIONS, prefix).to_json().map(Bytes::from);
    let document = document.inspect_err(|error| tracing::error!(%error, "OpenAPI document serialization failed")).ok();
    get(async move || {
        document.map(|text| ([(CONTENT_TYPE, "application/json")], text)).ok_or(StatusCode::INTERNAL_SERVER_ERROR)
    })
}

/// Removes an `X-Request-Id` that is not 1 to 128 visible ASCII characters; the next layer then generates one. Clients
/// and proxies choose this header, and every log line of the request contains it.
fn validate_request_id(mut request: Request) -> Request {
    let is_valid = |id: &[u8]| (1..=128).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic);
    if request.headers().get(X_REQUEST_ID).is_some_and(|id| !is_valid(id.as_bytes())) {
        request.headers_mut().remove(X_REQUEST_ID);
    }
    request
}

/// Counts an API request. Its log lines get the request id and the operation's name.
async fn observe(
    State(state): State<Arc<AppState>>,
    route: Option<Extension<ApiRoute>>,
    request: Request,
    next: Next,
) -> Response {
    let started_at = Instant::now();
    let operation = route.map(|Extension(route)| route.operation.name);
    let log_span = log::request_span(request.headers().get(X_REQUEST_ID), operation);
    #[cfg(feature = "otlp")]
    let span = state.tracer.start_span(operation, request.headers());
    let respond = async move {
        let response = next.run(request).await;
        let Outcome(outcome) = response.extensions().get().copied().unwrap_or(PANIC);
        let duration = started_at.elapsed();
        state.metrics.record_request(operation, outcome, duration);
        #[cfg(feature = "otlp")]
        span.finish(outcome, response.status());
        tracing::debug!(
            target: "mortise::request",
            outcome,
            status = response.status().as_u16(),
            ?duration,
            "request completed"
        );
        response
    };
    respond.instrument(log_span).await
}

/// Returns the response after a panic.
fn panic_response(dialect: Dialect) -> Response {
    tracing::error!("request handler panicked");
    let mut response = reply::build_response(Err(ApiError::TransactionFailed), ReplyFormat::new(dialect));
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    response.extensions_mut().insert(PANIC);
    response
}

/// Refuses a request to an unknown path.
async fn unknown_operation(State(state): State<Arc<AppState>>, request: Result<ApiRequest, Refusal>) -> Response {
    let mut format = match request {
        Ok(request) => request.format.with_cached_settings(&state).await,
        Err(refusal) => refusal.format,
    };
    // With `test=1` an X7 server sends this reply as HTML, regardless of `XML_API_Extension` and the format.
    if format.test && format.dialect.format_sets_content_type() {
        format = ReplyFormat { test: true, ..ReplyFormat::new(format.dialect) };
    }
    reply::build_response(Err(ApiError::UnknownOperation), format)
}
