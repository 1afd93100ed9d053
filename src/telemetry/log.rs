//! Log lines, and which request one is about: it stands behind the rest of each line that is written while the request is worked
//! at. (A span would say the same; it costs every request as much as a line, and few requests have one.)

use std::fmt;
use std::io::IsTerminal;

use axum::http::HeaderValue;
use serde::Serialize;
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, format};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{Config, LogFormat};

tokio::task_local! {
    static CURRENT_REQUEST: RequestInfo;
}

/// The request that a task works at.
#[derive(Debug)]
pub struct RequestInfo {
    /// As the reply says it in `X-Request-Id`.
    pub id: Option<HeaderValue>,
    /// None where nothing goes by the name that was called.
    pub operation: Option<&'static str>,
}

/// Works at a request: each line that is logged meanwhile says so.
pub fn with_request<T>(request: RequestInfo, work: impl Future<Output = T>) -> impl Future<Output = T> {
    CURRENT_REQUEST.scope(request, work)
}

/// Lines as the settings want them, on standard error.
pub fn init(config: &Config) {
    let human = match config.log_format {
        LogFormat::Human => true,
        LogFormat::Json => false,
        LogFormat::Auto => std::io::stderr().is_terminal(),
    };
    let registry = tracing_subscriber::registry().with(config.log.clone());
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(tracing::field::display);
        tracing::error!(place, "panic: {}", panic_message(panic.payload()));
    }));
    if human {
        registry.with(layer.event_format(HumanFormatter::new(std::io::stderr().is_terminal()))).init();
    } else {
        registry.with(layer.json().event_format(JsonFormatter::default())).init();
    }
}

/// The same for a command, whose own words are enough: only what goes wrong beside it.
pub fn init_for_command() {
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false).without_time();
    // What becomes of connections that are stopped half way is nobody's trouble.
    let warnings = Targets::new().with_default(LevelFilter::WARN).with_target("sqlx", LevelFilter::OFF);
    tracing_subscriber::registry().with(warnings).with(layer.with_ansi(std::io::stderr().is_terminal())).init();
}

/// What may be said of a panic: words that stand in the program, but none that were put together, for a piece of a request may
/// be among them.
pub fn panic_message(payload: &dyn std::any::Any) -> &str {
    payload.downcast_ref::<&'static str>().copied().unwrap_or("(not shown)")
}

/// Lines for people.
#[derive(Debug)]
pub struct HumanFormatter(format::Format);

impl HumanFormatter {
    /// With colours, or without.
    pub fn new(colours: bool) -> Self {
        Self(format::Format::default().with_ansi(colours))
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>, N: for<'a> FormatFields<'a> + 'static> FormatEvent<S, N>
    for HumanFormatter
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        to.write_str(line.trim_end_matches('\n'))?;
        // Outside of requests nothing is said.
        let _ = CURRENT_REQUEST.try_with(|RequestInfo { id, operation }| {
            write!(to, " request{{id={:?}", request_id_text(id))?;
            operation.map_or(Ok(()), |operation| write!(to, " operation={operation:?}"))?;
            to.write_char('}')
        });
        writeln!(to)
    }
}

/// An object a line.
#[derive(Debug)]
struct JsonFormatter(format::Format<format::Json>);

impl Default for JsonFormatter {
    fn default() -> Self {
        Self(format::Format::default().json().with_current_span(false).with_span_list(false))
    }
}

#[derive(Serialize)]
struct RequestJson<'a> {
    id: &'a str,
    operation: Option<&'static str>,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>, N: for<'a> FormatFields<'a> + 'static> FormatEvent<S, N>
    for JsonFormatter
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        let request = CURRENT_REQUEST.try_with(|RequestInfo { id, operation }| {
            serde_json::to_string(&RequestJson { id: request_id_text(id), operation: *operation })
        });
        match (line.trim_end().strip_suffix('}'), request) {
            (Some(rest), Ok(Ok(request))) => writeln!(to, "{rest},\"request\":{request}}}"),
            _ => to.write_str(&line),
        }
    }
}

fn request_id_text(id: &Option<HeaderValue>) -> &str {
    id.as_ref().and_then(|id| id.to_str().ok()).unwrap_or_default()
}
