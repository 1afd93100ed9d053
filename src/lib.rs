//! Mortise answers the HTTP API of the MOR billing system on PostgreSQL, so that clients written for MOR go on working.
//!
//! A request's way: [`routes`] → [`params`] → [`caller`] → an operation in [`api`] → [`document`] → [`reply`]. A refusal
//! anywhere is a [`fault::Fault`], which [`reply`] renders. `docs/architecture.md` is the map.

pub mod admin;
pub mod api;
pub mod app;
pub mod audit;
pub mod call;
pub mod caller;
pub mod client;
pub mod config;
pub mod connections;
pub mod database;
pub mod dialect;
pub mod directory;
pub mod document;
pub mod fault;
pub mod figures;
pub mod guessing;
pub mod idempotency;
pub mod line;
pub mod load;
pub mod log;
pub mod mail;
pub mod money;
pub mod number;
pub mod openapi;
pub mod page;
pub mod params;
pub mod passwords;
pub mod reply;
pub mod routes;
pub mod server;
pub mod signature;
pub mod store;
pub mod sweeper;
#[cfg(feature = "otlp")]
pub mod trace;
pub mod turns;
pub mod watch;
