//! Metrics, logs and traces.

pub mod log;
pub mod log_writer;
pub mod metrics;
#[cfg(feature = "otlp")]
pub mod tracer;
