//! With the feature `otlp`: a span for each request, sent to an OpenTelemetry collector. It says which operation it was, what came
//! of it and the request's id; parameters are nowhere in it. Spans wait in a queue of limited length and are sent by a thread of
//! their own: with the collector away they are lost, and requests don't notice.

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

/// How long the collector may take to accept spans.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest answer of a collector that is read.
const RESPONSE_BYTES_MAX: usize = 64 * 1024;

/// Where spans go.
#[derive(Debug)]
pub struct OtlpTracer(Option<(SdkTracerProvider, SdkTracer)>);

/// A request, from its header to the beginning of its reply.
#[derive(Debug)]
pub struct RequestSpan(Option<Span>);

impl OtlpTracer {
    /// To the collector at this address, or nowhere.
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

    /// A request has come, perhaps as part of something that its client traces.
    pub fn start_span(&self, operation: Option<&'static str>, headers: &HeaderMap) -> RequestSpan {
        let begin = |(_, tracer): &(SdkTracerProvider, SdkTracer)| {
            let parent =
                TraceContextPropagator::new().extract_with_context(&Context::new(), &TraceparentExtractor(headers));
            let operation = operation.unwrap_or("unknown");
            let id = headers.get("x-request-id").and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned();
            let attributes = [KeyValue::new("operation", operation), KeyValue::new("request_id", id)];
            let span = tracer.span_builder(operation).with_kind(SpanKind::Server).with_attributes(attributes);
            span.start_with_context(tracer, &parent)
        };
        RequestSpan(self.0.as_ref().map(begin))
    }

    /// Sends what is waiting, if that doesn't take longer.
    pub async fn stop(&self, wait: Duration) {
        if let Some((provider, _)) = self.0.clone() {
            let _ = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(wait)).await;
        }
    }
}

impl RequestSpan {
    /// What came of it. (One that nobody waits for any more ends without.)
    pub fn finish(self, outcome: &'static str, status: StatusCode) {
        let Some(mut span) = self.0 else { return };
        span.set_attribute(KeyValue::new("outcome", outcome));
        span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status.as_u16())));
        if status.is_server_error() {
            span.set_status(Status::Error { description: Cow::Borrowed(outcome) });
        }
    }
}

/// The one header that is looked at: `tracestate` is whatever its sender likes, and goes no further.
struct TraceparentExtractor<'a>(&'a HeaderMap);

impl Extractor for TraceparentExtractor<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        (key == "traceparent").then(|| self.0.get(key)?.to_str().ok()).flatten()
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent"]
    }
}

/// Tells once that spans are lost, and once that they no longer are.
#[derive(Debug)]
struct LoggingExporter {
    exporter: opentelemetry_otlp::SpanExporter,
    is_failing: AtomicBool,
}

impl SpanExporter for LoggingExporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let sent = self.exporter.export(batch).await;
        match &sent {
            Err(error) if !self.is_failing.swap(true, Ordering::Relaxed) => {
                tracing::warn!(%error, "no traces are sent for the moment: those of meanwhile are lost");
            }
            Ok(()) if self.is_failing.swap(false, Ordering::Relaxed) => tracing::info!("traces are sent again"),
            _ => {}
        }
        sent
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// HTTP without TLS. The thread that sends spans is none of the runtime's, which the connections need: they are seen to there.
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
    fn send_bytes<'this, 'answer>(
        &'this self,
        request: opentelemetry_http::Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = HttpResult> + Send + 'answer>>
    where
        'this: 'answer,
    {
        let client = self.client.clone();
        let answer = async move {
            let (parts, body) = client.request(request.map(Full::new)).await?.into_parts();
            let body = Limited::new(body, RESPONSE_BYTES_MAX).collect().await?.to_bytes();
            Ok(opentelemetry_http::Response::from_parts(parts, body))
        };
        let answer = self.runtime.spawn(async { tokio::time::timeout(EXPORT_TIMEOUT, answer).await });
        Box::pin(async { answer.await?? })
    }
}
