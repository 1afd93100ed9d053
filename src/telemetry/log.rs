//! Logging. Each line that is logged while a request is processed ends with the request's id and operation. They come
//! from a task-local value: a span would cost every request as much as a log line, and few requests log one.

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
use crate::telemetry::log_writer::{self, LogWriter};

tokio::task_local! {
    static CURRENT_REQUEST: RequestInfo;
}

/// The data about the current request that its log lines contain.
#[derive(Debug)]
pub struct RequestInfo {
    /// The value of `X-Request-Id`, also in the reply.
    pub id: Option<HeaderValue>,
    /// `None` if no operation has the requested name.
    pub operation: Option<&'static str>,
}

/// Runs `future` so that all its log lines contain `request`.
pub fn with_request<T>(request: RequestInfo, future: impl Future<Output = T>) -> impl Future<Output = T> {
    CURRENT_REQUEST.scope(request, future)
}

/// Initialises logging for the server: to standard error through [`log_writer`], in the format and with the levels of
/// the settings. Panics are logged as errors.
///
/// # Errors
///
/// If the thread that writes the log cannot be started.
pub fn init(config: &Config) -> std::io::Result<()> {
    log_writer::start()?;
    let is_human = match config.log_format {
        LogFormat::Human => true,
        LogFormat::Json => false,
        LogFormat::Auto => std::io::stderr().is_terminal(),
    };
    let registry = tracing_subscriber::registry().with(config.log.clone());
    // Internal errors would be written to standard error directly.
    let layer = tracing_subscriber::fmt::layer().with_writer(LogWriter).log_internal_errors(false);
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(tracing::field::display);
        tracing::error!(location, "panic: {}", panic_message(panic.payload()));
    }));
    if is_human {
        registry.with(layer.event_format(HumanFormatter::new(std::io::stderr().is_terminal()))).init();
    } else {
        registry.with(layer.json().event_format(JsonFormatter::default())).init();
    }
    Ok(())
}

/// Initialises logging for a command: warnings and errors only, because the command prints its own results.
pub fn init_for_command() {
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false).without_time();
    // sqlx is silenced: its warnings about connections that a command closes early need no action.
    let warnings = Targets::new().with_default(LevelFilter::WARN).with_target("sqlx", LevelFilter::OFF);
    tracing_subscriber::registry().with(warnings).with(layer.with_ansi(std::io::stderr().is_terminal())).init();
}

/// Returns the message of a panic if it is a string literal in the code. A formatted message is not shown, because it
/// may contain data of a request.
pub fn panic_message(payload: &dyn std::any::Any) -> &str {
    payload.downcast_ref::<&'static str>().copied().unwrap_or("(not shown)")
}

/// Formats events as plain text lines.
#[derive(Debug)]
pub struct HumanFormatter(format::Format);

impl HumanFormatter {
    /// Creates a formatter, with or without ANSI colours.
    pub fn new(ansi: bool) -> Self {
        Self(format::Format::default().with_ansi(ansi))
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>, N: for<'a> FormatFields<'a> + 'static> FormatEvent<S, N>
    for HumanFormatter
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        writer.write_str(line.trim_end_matches('\n'))?;
        // An error means that no request is processed in this task: then nothing is appended.
        let _ = CURRENT_REQUEST.try_with(|RequestInfo { id, operation }| {
            write!(writer, " request{{id={:?}", request_id_text(id))?;
            operation.map_or(Ok(()), |operation| write!(writer, " operation={operation:?}"))?;
            writer.write_char('}')
        });
        writeln!(writer)
    }
}

/// Formats each event as a JSON object on one line.
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
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        let request = CURRENT_REQUEST.try_with(|RequestInfo { id, operation }| {
            serde_json::to_string(&RequestJson { id: request_id_text(id), operation: *operation })
        });
        match (line.trim_end().strip_suffix('}'), request) {
            (Some(object), Ok(Ok(request))) => writeln!(writer, "{object},\"request\":{request}}}"),
            _ => writer.write_str(&line),
        }
    }
}

fn request_id_text(id: &Option<HeaderValue>) -> &str {
    id.as_ref().and_then(|id| id.to_str().ok()).unwrap_or_default()
}
