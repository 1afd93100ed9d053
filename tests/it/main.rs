//! All integration tests run in one binary, through the real router, against a PostgreSQL server that the first test
//! starts.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod auth;
mod conformance;
mod console;
mod harness;
mod http;
mod layering;
mod mail;
mod mor_import;
mod operations;
mod operator;
mod properties;
mod reliability;
mod wording;
