//! What every request shares.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use sqlx::PgPool;
use tokio::sync::{MutexGuard, OwnedSemaphorePermit};

use crate::audit::Audit;
use crate::config::Config;
use crate::database::pool::Pool;
use crate::directory::Directory;
use crate::figures::Figures;
use crate::guessing::Guessing;
use crate::idempotency;
use crate::load::Load;
use crate::mail::Mail;
use crate::passwords::Passwords;
use crate::store::together::Together;
use crate::sweeper::Sweeper;
#[cfg(feature = "otlp")]
use crate::trace::Traces;
use crate::turns::Turns;

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
    /// What has to run beside the answering of requests, until it is dropped.
    pub async fn run_beside(&self) {
        tokio::join!(
            again("listening for changes", || self.directory.listen()),
            again("sweeping the stock", || self.sweeper.sweep(&self.errands)),
            again("forgetting idempotency keys", || self.forget_keys()),
            again("sending e-mails", || self.mail.run(&self.errands, &self.directory))
        );
    }

    async fn forget_keys(&self) {
        loop {
            idempotency::forget(&self.errands, self.config.idempotency_hours.get()).await;
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
    }

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

/// Runs something to its end; what panics is begun again, and takes nothing else along.
async fn again<R: Future<Output = ()>>(what: &str, run: impl Fn() -> R) {
    while AssertUnwindSafe(run()).catch_unwind().await.is_err() {
        tracing::error!("{what} was broken off by a panic, and begins again");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
