//! Metrics, logs and traces.

pub mod log;
pub mod metrics;
#[cfg(feature = "otlp")]
pub mod tracer;
