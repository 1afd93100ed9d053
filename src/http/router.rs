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
use crate::error::ApiError;
use crate::http::context::CallContext;
use crate::http::monitoring;
use crate::http::openapi;
use crate::http::reply::{self, ReplyFormat};
use crate::http::request::{ApiPath, ApiRequest, reply_format};
use crate::operations::OPERATIONS;
use crate::state::AppState;
use crate::telemetry::log;
use crate::xml::XmlReply;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Everything that is served: the API and its document under the prefix and under `/api`, `/livez` and `/readyz`.
///
/// A request to the API goes straight to it. The router, which would box it twice on its way, has the others, unknown paths among them,
/// which the API refuses.
#[derive(Debug, Clone)]
pub struct AppService<S> {
    api: S,
    router: Router,
    prefix: Arc<str>,
}

/// What a server answers with.
pub fn build_service(state: Arc<AppState>) -> AppService<impl HttpService<Future: Send>> {
    // As one layer, from the outermost in: each by itself would cost each request half a dozen allocations.
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
        .fallback(serve_api)
        .with_state(state.clone())
        .merge(monitoring::health_router(state.clone()))
        .layer(layers.clone());
    // In a box: it is large, and on its way out each layer would move it.
    let api = layers.layer(service_fn(move |request| Box::pin(serve_api(State(state.clone()), request)).map(Ok)));
    AppService { api, router, prefix }
}

/// What answers requests, whatever they are.
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
fn openapi_route<S: Clone + Send + Sync + 'static>(prefix: &str) -> MethodRouter<S> {
    let document = openapi::build_document(OPERATIONS, prefix).to_json().map(Bytes::from);
    let document = document.inspect_err(|error| tracing::error!(%error, "the OpenAPI document can't be written")).ok();
    get(async move || {
        document.map(|text| ([(CONTENT_TYPE, "application/json")], text)).ok_or(StatusCode::INTERNAL_SERVER_ERROR)
    })
}

/// An id that a client or a proxy chose goes into each line of the log: one that doesn't look like an id is replaced.
fn validate_request_id(mut request: Request) -> Request {
    let is_valid = |id: &[u8]| (1..=128).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic);
    if request.headers().get(X_REQUEST_ID).is_some_and(|id| !is_valid(id.as_bytes())) {
        request.headers_mut().remove(X_REQUEST_ID);
    }
    request
}

/// A request to the API: answered, counted, and each line that the log has of it with its id.
fn serve_api(State(state): State<Arc<AppState>>, mut request: Request) -> impl Future<Output = Response> + Send {
    let since = Instant::now();
    let path = ApiPath::parse(request.uri().path(), &state.config.prefix, state.config.dialect.path_suffixes());
    let operation = path.operation.map(|operation| operation.name);
    let worked_at = log::RequestInfo { id: request.headers().get(X_REQUEST_ID).cloned(), operation };
    #[cfg(feature = "otlp")]
    let traced = state.tracer.start_span(operation, request.headers());
    log::with_request(worked_at, async move {
        let answered = AssertUnwindSafe(handle(&state, &path, &mut request)).catch_unwind().await;
        let (outcome, response) = answered.unwrap_or_else(|_| panic_response(state.config.dialect));
        let took = since.elapsed();
        state.metrics.record_request(operation, outcome, took);
        #[cfg(feature = "otlp")]
        traced.finish(outcome, response.status());
        tracing::debug!(target: "mortise::request", outcome, status = response.status().as_u16(), ?took, "answered");
        response
    })
}

/// The reply to a request that made us panic.
fn panic_response(dialect: Dialect) -> (&'static str, Response) {
    tracing::error!("a request made the server panic");
    let mut response = reply::build_response(Err(ApiError::TransactionFailed), ReplyFormat::default(), dialect);
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    ("panic", response)
}

/// From a request's bytes to the bytes of the reply, and in a word what came of it. The request is taken apart where it stands: in
/// futures each hand that a thing goes through keeps room for it.
async fn handle(state: &Arc<AppState>, path: &ApiPath, request: &mut Request) -> (&'static str, Response) {
    let dialect = state.config.dialect;
    let is_head = request.method() == Method::HEAD;
    let incoming = ApiRequest::read(state, path, request).await;
    let params = incoming.as_ref().ok().map(|incoming| &incoming.params);
    let mut presentation = reply_format(dialect, path, params);
    let result = match (path.operation, incoming) {
        (Some(operation), Ok(ApiRequest { params, client, permits: _permits })) => {
            match state.accounts.settings(0).await {
                Ok(system) => {
                    presentation.xml_extension = system.is_enabled(Setting::XmlApiExtension);
                    let (method, uri) = (request.method().clone(), mem::take(request.uri_mut()));
                    let (headers, called) = (mem::take(request.headers_mut()), path.alias);
                    let call = CallContext {
                        state: state.clone(),
                        operation,
                        alias: called,
                        params,
                        system_settings: system,
                        method,
                        uri,
                        headers,
                        client,
                    };
                    (operation.handler)(&call).await
                }
                Err(error) => Err(error.into()),
            }
        }
        // A refusal that needs no database doesn't wait for it.
        (operation, incoming) => {
            presentation.xml_extension =
                state.accounts.cached_settings(0).await.is_some_and(|system| system.is_enabled(Setting::XmlApiExtension));
            Err(operation.and(incoming.err()).unwrap_or(ApiError::UnknownOperation))
        }
    };
    // An X7 server shows this one answer as HTML whatever the settings say.
    if path.operation.is_none() && presentation.test && dialect.format_sets_content_type() {
        presentation = ReplyFormat { test: true, ..ReplyFormat::default() };
    }
    let outcome = match &result {
        Ok(XmlReply::Replayed(_)) => "replayed",
        Ok(_) => "done",
        Err(fault) => fault.into(),
    };
    let response = reply::build_response(result, presentation, dialect);
    (outcome, if is_head { reply::into_head_response(response) } else { response })
}
