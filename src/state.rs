//! The state that all requests share.

use std::path::Path;
use std::sync::Arc;

use sqlx::PgPool;

use crate::accounts::AccountCache;
use crate::audit::AuditQueue;
use crate::auth::attempt_limiter::AttemptLimiter;
use crate::auth::passwords::Passwords;
use crate::auth::user_lookup::UserLookup;
use crate::config::Config;
use crate::db::health::HealthCheck;
use crate::db::pool::Pool;
use crate::jobs::stock_vacuum::StockVacuum;
use crate::locks::Locks;
use crate::mail::Mailer;
use crate::sales::batcher::SaleBatcher;
use crate::server::limits::{LoadLimiter, RefusalLog, WaitQueue};
use crate::telemetry::metrics::Metrics;
#[cfg(feature = "otlp")]
use crate::telemetry::tracer::OtlpTracer;

/// The server's components, created once at the start.
#[derive(Debug)]
#[expect(missing_docs, reason = "the fields are documented by their types")]
pub struct AppState {
    pub config: Config,
    /// The directory of temporary files.
    pub temp_dir: Arc<Path>,
    pub pool: Pool,
    /// Connections for background tasks other than e-mails, which must not wait behind requests.
    pub background_pool: PgPool,
    /// Connections for e-mails.
    pub mail_pool: PgPool,
    pub health: HealthCheck,
    pub accounts: AccountCache,
    pub passwords: Passwords,
    pub audit: AuditQueue,
    pub attempts: AttemptLimiter,
    pub user_lookup: UserLookup,
    pub locks: Locks,
    /// The requests that wait for one of `locks`.
    pub lock_queue: WaitQueue,
    pub load: LoadLimiter,
    pub refusal_log: RefusalLog,
    pub mail: Mailer,
    pub stock_vacuum: StockVacuum,
    pub batcher: SaleBatcher,
    pub metrics: Metrics,
    #[cfg(feature = "otlp")]
    pub tracer: OtlpTracer,
}

impl AppState {
    /// Records that `count` cards were sold.
    pub fn record_cards_sold(&self, count: usize) {
        self.stock_vacuum.record_cards_sold(count);
        self.metrics.cards_sold.inc_by(u64::try_from(count).unwrap_or(0));
    }
}
