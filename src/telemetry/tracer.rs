//! Tracing (feature `otlp`): exports a span for each request to an OpenTelemetry collector. A span contains the
//! operation, the outcome, the HTTP status and the request id, but no parameters. Spans wait in a bounded queue, and a
//! separate thread exports them. While the collector is unreachable, spans are dropped and requests are not delayed.

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{Span as _, SpanKind, Status, Tracer, TracerProvider};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{Bytes, HttpClient, HttpError};
use opentelemetry_otlp::{ExporterBuildError, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, Span, SpanData, SpanExporter};
use tokio::runtime::Handle;

/// Timeout for one export request to the collector.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum length of the collector's response; a longer one is an error.
const RESPONSE_BYTES_MAX: usize = 64 * 1024;

/// Creates request spans and exports them; does nothing without a collector.
#[derive(Debug)]
pub struct OtlpTracer(Option<(SdkTracerProvider, SdkTracer)>);

/// The span of a request, from its header to the start of its reply.
#[derive(Debug)]
pub struct RequestSpan(Option<Span>);

impl OtlpTracer {
    /// Creates a tracer that exports to the collector at this base URL; `None` disables tracing.
    pub fn new(collector: Option<&Uri>) -> Result<Self, ExporterBuildError> {
        let Some(collector) = collector else { return Ok(Self(None)) };
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_http_client(PlainHttpClient::new())
            .with_endpoint(format!("{}/v1/traces", collector.to_string().trim_end_matches('/')))
            .with_timeout(EXPORT_TIMEOUT)
            .build()?;
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let provider = SdkTracerProvider::builder()
            .with_resource(Resource::builder_empty().with_service_name("mortise").with_attribute(version).build())
            .with_batch_exporter(LoggingExporter { exporter, is_failing: AtomicBool::new(false) })
            .build();
        let tracer = provider.tracer("mortise");
        Ok(Self(Some((provider, tracer))))
    }

    /// Starts the span of a request. Its parent is the span in the header `traceparent`, if there is one.
    pub fn start_span(&self, operation: Option<&'static str>, headers: &HeaderMap) -> RequestSpan {
        let start = |(_, tracer): &(SdkTracerProvider, SdkTracer)| {
            let parent =
                TraceContextPropagator::new().extract_with_context(&Context::new(), &TraceparentExtractor(headers));
            let operation = operation.unwrap_or("unknown");
            let id = headers.get("x-request-id").and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned();
            let attributes = [KeyValue::new("operation", operation), KeyValue::new("request_id", id)];
            let span = tracer.span_builder(operation).with_kind(SpanKind::Server).with_attributes(attributes);
            span.start_with_context(tracer, &parent)
        };
        RequestSpan(self.0.as_ref().map(start))
    }

    /// Exports the queued spans, for at most `timeout`.
    pub async fn stop(&self, timeout: Duration) {
        if let Some((provider, _)) = self.0.clone() {
            let _ = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(timeout)).await;
        }
    }
}

impl RequestSpan {
    /// Ends the span with the outcome and the status. A span that is dropped instead, because the client disconnected,
    /// ends without them.
    pub fn finish(self, outcome: &'static str, status: StatusCode) {
        let Some(mut span) = self.0 else { return };
        span.set_attribute(KeyValue::new("outcome", outcome));
        span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status.as_u16())));
        if status.is_server_error() {
            span.set_status(Status::Error { description: Cow::Borrowed(outcome) });
        }
    }
}

/// Reads only `traceparent`. `tracestate` is ignored: its content is arbitrary, and spans must not forward it.
struct TraceparentExtractor<'a>(&'a HeaderMap);

impl Extractor for TraceparentExtractor<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        (key == "traceparent").then(|| self.0.get(key)?.to_str().ok()).flatten()
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent"]
    }
}

/// An exporter that logs the first failure of a series, and the first success after it.
#[derive(Debug)]
struct LoggingExporter {
    exporter: opentelemetry_otlp::SpanExporter,
    is_failing: AtomicBool,
}

impl SpanExporter for LoggingExporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let result = self.exporter.export(batch).await;
        match &result {
            Err(error) if !self.is_failing.swap(true, Ordering::Relaxed) => {
                tracing::warn!(%error, "trace export failed, dropping spans");
            }
            Ok(()) if self.is_failing.swap(false, Ordering::Relaxed) => tracing::info!("trace export resumed"),
            _ => {}
        }
        result
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// An HTTP client without TLS. The exporter calls it from a thread outside of the tokio runtime, so the requests are
/// spawned on the runtime, which their connections need.
#[derive(Debug)]
struct PlainHttpClient {
    client: Client<HttpConnector, Full<Bytes>>,
    runtime: Handle,
}

impl PlainHttpClient {
    fn new() -> Self {
        Self { client: Client::builder(TokioExecutor::new()).build_http(), runtime: Handle::current() }
    }
}

type HttpResult = Result<opentelemetry_http::Response<Bytes>, HttpError>;

impl HttpClient for PlainHttpClient {
    fn send_bytes<'this, 'response>(
        &'this self,
        request: opentelemetry_http::Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = HttpResult> + Send + 'response>>
    where
        'this: 'response,
    {
        let client = self.client.clone();
        let response = async move {
            let (parts, body) = client.request(request.map(Full::new)).await?.into_parts();
            let body = Limited::new(body, RESPONSE_BYTES_MAX).collect().await?.to_bytes();
            Ok(opentelemetry_http::Response::from_parts(parts, body))
        };
        let response = self.runtime.spawn(async { tokio::time::timeout(EXPORT_TIMEOUT, response).await });
        Box::pin(async { response.await?? })
    }
}
