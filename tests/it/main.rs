//! All tests run in one binary, through the real router against a real PostgreSQL, which the first of them starts.

mod harness;

mod admission;
mod card_from_group_sell;
mod config;
mod conformance;
mod contention;
mod directory;
mod properties;
mod requests;
mod stock;
