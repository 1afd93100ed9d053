//! All tests run in one binary, through the real router against a real PostgreSQL, which the first of them starts.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod auth;
mod conformance;
mod harness;
mod http;
mod layering;
mod mail;
mod operations;
mod operator;
mod properties;
mod reliability;
