//! The router: from a request to its operation, and from the operation's result to the response.
//!
//! ```text
//! server::listener        accepts the TCP connection; hyper parses HTTP
//!   │
//! AppService::call        chooses by path, then both branches pass the same layers: request id, security headers
//!   ├─ Router             /, /livez, /readyz, /api/openapi.json; other paths: serve_api, which refuses them
//!   └─ serve_api          /api/… and {prefix}/api/…: log context, panic handler, metrics, tracing span
//!        └─ handle
//!             ├─ ApiPath::parse          the operation by its name or alias (the table OPERATIONS)
//!             ├─ ApiRequest::read        method, body, limits, parameters, client address, failed attempts
//!             ├─ Operation::handler      operations/…: authenticate, verify the hash, authorize, execute
//!             └─ reply::build_response   renders Result<XmlReply, ApiError>: status, headers, body
//! ```
//!
//! Every refusal is an [`ApiError`]. `docs/architecture.md` ("Order of refusal") lists the checks in their order.

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
use axum::http::{HeaderValue, Method, StatusCode, Uri};
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
use crate::error::ApiError;
use crate::http::context::CallContext;
use crate::http::index;
use crate::http::monitoring;
use crate::http::openapi;
use crate::http::reply::{self, ReplyFormat};
use crate::http::request::{self, ApiPath, ApiRequest, reply_format};
use crate::operations::OPERATIONS;
use crate::state::AppState;
use crate::telemetry::log;
use crate::xml::XmlReply;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The service of the main listener: the API and its OpenAPI document, below the prefix and below `/api`, and the
/// health checks `/livez` and `/readyz`.
///
/// API requests bypass the [`Router`], which allocates two boxes for each request. The router serves all other paths.
/// Its fallback is the API too, which refuses unknown paths.
#[derive(Debug, Clone)]
pub struct AppService<S> {
    api: S,
    router: Router,
    prefix: Arc<str>,
}

/// Builds the service of the main listener.
pub fn build_service(state: Arc<AppState>) -> AppService<impl HttpService<Future: Send>> {
    // One tuple, outermost layer first: as separate `Router` layers they would cost about six allocations a request.
    let layers = (
        MapRequestLayer::new(validate_request_id),
        SetRequestIdLayer::new(X_REQUEST_ID, MakeRequestUuid),
        PropagateRequestIdLayer::new(X_REQUEST_ID),
        SetResponseHeaderLayer::overriding(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        SetResponseHeaderLayer::overriding(CACHE_CONTROL, HeaderValue::from_static("no-store")),
    );
    let prefix: Arc<str> = state.config.prefix.as_str().into();
    let mut router = Router::new().route(openapi::PATH, openapi_route(&prefix));
    if !prefix.is_empty() {
        router = router.route(&format!("{prefix}{}", openapi::PATH), openapi_route(&prefix));
    }
    let router = router
        .route("/", index::route(&prefix).fallback(serve_api))
        .fallback(serve_api)
        .with_state(state.clone())
        .merge(monitoring::health_router(state.clone()))
        .layer(layers.clone());
    // Boxed: the future is large, and each layer would move it.
    let api = layers.layer(service_fn(move |request| Box::pin(serve_api(State(state.clone()), request)).map(Ok)));
    AppService { api, router, prefix }
}

/// A service that the listener can serve: it answers every request and is cloned for each connection.
pub trait HttpService:
    Service<Request, Response = Response, Error = Infallible> + Clone + Send + Sync + 'static
{
}

impl<S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + Sync + 'static> HttpService for S {}

impl<S: HttpService> Service<Request> for AppService<S> {
    type Response = Response;
    type Error = Infallible;
    type Future = Either<S::Future, RouteFuture<Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.api.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        if let Some(path) = request::with_single_slashes(request.uri().path()) {
            replace_path(request.uri_mut(), &path);
        }
        let path = request.uri().path();
        let name = path.strip_prefix(&*self.prefix).unwrap_or(path);
        if (name.starts_with("/api/") || path.starts_with("/api/")) && !path.ends_with(openapi::PATH) {
            Either::Left(self.api.call(request))
        } else {
            Either::Right(self.router.call(request))
        }
    }
}

/// Replaces the path. The query string stays.
fn replace_path(uri: &mut Uri, path: &str) {
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = format!("{path}{query}").parse().ok();
    if let Ok(replaced) = Uri::from_parts(parts) {
        *uri = replaced;
    }
}

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

/// Answers a request to the API and counts it. Its log lines get the request id and the operation's name.
fn serve_api(State(state): State<Arc<AppState>>, mut request: Request) -> impl Future<Output = Response> + Send {
    let started_at = Instant::now();
    let path = ApiPath::parse(request.uri().path(), &state.config.prefix, state.config.dialect.path_suffixes());
    let operation = path.operation.map(|operation| operation.name);
    let request_info = log::RequestInfo { id: request.headers().get(X_REQUEST_ID).cloned(), operation };
    #[cfg(feature = "otlp")]
    let span = state.tracer.start_span(operation, request.headers());
    log::with_request(request_info, async move {
        let handled = AssertUnwindSafe(handle(&state, &path, &mut request)).catch_unwind().await;
        let (outcome, response) = handled.unwrap_or_else(|_| panic_response(state.config.dialect));
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
    })
}

/// Returns the metric label `outcome` and the response after a panic in [`handle`].
fn panic_response(dialect: Dialect) -> (&'static str, Response) {
    tracing::error!("request handler panicked");
    let mut response = reply::build_response(Err(ApiError::TransactionFailed), ReplyFormat::default(), dialect);
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    ("panic", response)
}

/// Handles an API request. Returns the metric label `outcome` and the response. The request is borrowed, and its parts
/// are taken out of it: moved through nested futures, it would occupy space in each of them.
async fn handle(state: &Arc<AppState>, path: &ApiPath, request: &mut Request) -> (&'static str, Response) {
    let dialect = state.config.dialect;
    let is_head = request.method() == Method::HEAD;
    let api_request = ApiRequest::read(state, path, request).await;
    let params = api_request.as_ref().ok().map(|api_request| &api_request.params);
    let mut format = reply_format(dialect, path, params);
    let result = match (path.operation, api_request) {
        (Some(operation), Ok(ApiRequest { params, client, permits: _permits })) => {
            match state.accounts.settings(0).await {
                Ok(system_settings) => {
                    format.xml_extension = system_settings.is_enabled(Setting::XmlApiExtension);
                    let (method, uri) = (request.method().clone(), mem::take(request.uri_mut()));
                    let call = CallContext {
                        state: state.clone(),
                        operation,
                        alias: path.alias,
                        params,
                        system_settings,
                        method,
                        uri,
                        headers: mem::take(request.headers_mut()),
                        client,
                    };
                    (operation.handler)(&call).await
                }
                Err(error) => Err(error.into()),
            }
        }
        // A refusal that needs no database must not wait for it: only cached settings are read.
        (operation, api_request) => {
            format.xml_extension = (state.accounts.cached_settings(0).await)
                .is_some_and(|system_settings| system_settings.is_enabled(Setting::XmlApiExtension));
            Err(operation.and(api_request.err()).unwrap_or(ApiError::UnknownOperation))
        }
    };
    // With `test=1` an X7 server sends this reply as HTML, regardless of `XML_API_Extension` and the format.
    if path.operation.is_none() && format.test && dialect.format_sets_content_type() {
        format = ReplyFormat { test: true, ..ReplyFormat::default() };
    }
    let outcome = match &result {
        Ok(XmlReply::Replayed(_)) => "replayed",
        Ok(_) => "done",
        Err(error) => error.into(),
    };
    let response = reply::build_response(result, format, dialect);
    (outcome, if is_head { reply::into_head_response(response) } else { response })
}
