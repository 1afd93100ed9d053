//! Mortise is an HTTP server for the calling-card API of the MOR billing system, on PostgreSQL. Clients written for MOR
//! work unchanged.
//!
//! A request passes through [`http::router`], [`http::params`], [`auth::admission`], one operation in [`operations`],
//! and [`http::reply`]. Every refusal is an [`error::ApiError`], which [`http::reply`] renders. `docs/architecture.md`
//! describes the modules.

pub mod accounts;
pub mod audit;
pub mod auth;
pub mod back_office;
pub mod cli;
pub mod config;
pub mod console;
pub mod db;
pub mod dialect;
pub mod error;
pub mod http;
pub mod idempotency;
pub mod input;
pub mod jobs;
pub mod locks;
pub mod mail;
pub mod managed_postgres;
pub mod money;
pub mod mor_import;
pub mod number;
pub mod operations;
pub mod pin;
pub mod sales;
pub mod server;
pub mod spool;
pub mod state;
pub mod store;
pub mod telemetry;
pub mod xml;
