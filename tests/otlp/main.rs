//! The tests of the feature `otlp`, in a binary of their own: all others are compiled once, without the feature.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "the harness of all tests")]
#[path = "../it/harness/mod.rs"]
mod harness;
mod trace;
