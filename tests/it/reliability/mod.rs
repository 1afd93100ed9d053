//! Failures, concurrency, caches, the database and schema upgrades.

mod account_cache;
mod amounts;
mod audit_retention;
mod back_office_plans;
mod chaos;
mod contention;
mod data_directory;
mod encoding;
#[cfg(target_os = "linux")]
mod environment;
#[cfg(target_os = "linux")]
mod full_disk;
mod idempotency;
mod idempotency_concurrency;
mod ids;
mod import_plans;
mod keyed_semaphores;
mod ledger;
mod ledger_sequences;
mod long_lists;
mod managed_postgres;
#[cfg(target_os = "linux")]
mod memory;
mod pool;
mod query_plans;
mod rate_lists;
mod report_plans;
mod sale_batcher;
mod sale_batching;
mod session_settings;
pub mod soak;
mod stock;
mod synchronous_standby;
mod upgrade;
