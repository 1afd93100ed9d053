//! Logging. Each line that is logged while a request is processed has the request's id and operation, in the span
//! `request`.

use std::io::IsTerminal;

use axum::http::HeaderValue;
use tracing::Span;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{Config, LogFormat};
use crate::telemetry::log_writer::{self, LogWriter};

/// Returns the span for the log lines of a request. `id`: the value of `X-Request-Id`, also in the reply; `operation`:
/// `None` if no operation has the requested name.
pub fn request_span(id: Option<&HeaderValue>, operation: Option<&'static str>) -> Span {
    // Of the level ERROR, so that it is not left out when only errors are logged.
    tracing::error_span!("request", id = id.and_then(|id| id.to_str().ok()), operation)
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
        registry.with(layer.with_ansi(std::io::stderr().is_terminal())).init();
    } else {
        registry.with(layer.json().with_span_list(false)).init();
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
