//! What every request shares.

use sqlx::PgPool;
use tokio::sync::{MutexGuard, OwnedSemaphorePermit};

use crate::accounts::Directory;
use crate::audit::Audit;
use crate::auth::attempt_limiter::Guessing;
use crate::auth::passwords::Passwords;
use crate::config::Config;
use crate::db::pool::Pool;
use crate::jobs::stock_vacuum::Sweeper;
use crate::locks::Turns;
use crate::mail::Mail;
use crate::sales::batcher::Together;
use crate::server::limits::Load;
use crate::telemetry::metrics::Figures;
#[cfg(feature = "otlp")]
use crate::telemetry::tracer::Traces;

/// The server's parts, made once at the start.
#[derive(Debug)]
#[expect(missing_docs, reason = "each part's type says what it is")]
pub struct App {
    pub config: Config,
    pub pool: Pool,
    /// For what must not wait behind requests.
    pub errands: PgPool,
    pub directory: Directory,
    pub passwords: Passwords,
    pub audit: Audit,
    pub guessing: Guessing,
    pub turns: Turns,
    pub load: Load,
    pub mail: Mail,
    pub sweeper: Sweeper,
    pub together: Together,
    pub figures: Figures,
    #[cfg(feature = "otlp")]
    pub traces: Traces,
}

impl App {
    /// So many cards were sold.
    pub fn sold(&self, cards: usize) {
        self.sweeper.sold(cards);
        self.figures.cards_sold.inc_by(u64::try_from(cards).unwrap_or(0));
    }

    /// Waits for the caller id's turn within this server, as long as a request may wait for a connection. `None`: in vain.
    pub async fn callerid_turn(&self, callerid: &str) -> Option<MutexGuard<'_, ()>> {
        tokio::time::timeout(self.config.database_wait, self.turns.of_callerid(callerid)).await.ok()
    }

    /// Waits as long for a list reader's turn.
    pub async fn list_turn(&self) -> Option<OwnedSemaphorePermit> {
        tokio::time::timeout(self.config.database_wait, self.turns.of_list_readers()).await.ok().flatten()
    }
}
