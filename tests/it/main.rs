//! All tests run in one binary, through the real router against a real PostgreSQL, which the first of them starts.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod harness;

mod admission;
mod calling_card_update;
mod calling_cards_create;
mod calling_cards_get;
mod card_balance_get;
mod card_by_cli_update;
mod card_from_group_sell;
mod card_group_get;
mod card_payment_add;
mod cc_group_create;
mod cc_group_update;
mod cc_groups_get;
mod chaos;
mod collection;
mod commands;
mod config;
mod conformance;
mod contention;
mod contrib;
mod directory;
mod documents;
mod guessing;
mod hostile;
mod house;
mod idempotency;
mod key_rotation;
mod log;
mod mail;
mod managed;
#[cfg(target_os = "linux")]
mod memory;
mod money;
mod openapi;
#[cfg(target_os = "linux")]
mod overload;
mod packages;
mod plans;
mod pool;
mod properties;
mod requests;
mod secrets;
mod soak;
mod stock;
mod tariff_wholesale_update;
mod together;
mod trace;
mod upgrade;
mod watch;
