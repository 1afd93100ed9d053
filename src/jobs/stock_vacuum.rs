//! Keeping the stock's head free. Sold cards leave dead entries in the index of `card_stock` at the very place where each sale begins
//! to look: ten thousand of them make a sale a third slower. PostgreSQL's own sweeping comes when it comes, as a rule once a minute;
//! this one comes when there is something to sweep.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sqlx::PgPool;
use tokio::sync::Notify;

/// So many cards sold are worth the trouble.
const VACUUM_THRESHOLD: usize = 1_000;
/// Sweeping reads the whole index: it may take a twentieth of the time, not more.
const COOLDOWN_FACTOR: u32 = 20;
const COOLDOWN_MIN: Duration = Duration::from_millis(200);

/// Locks are never waited for: whoever holds one sweeps. `index_cleanup`, or dead entries would stay while they are few for the
/// table's size.
const VACUUM_SQL: &str = "vacuum (index_cleanup on, truncate off, process_toast off, skip_locked) card_stock";

/// Counts what is sold, and sweeps when it is enough.
#[derive(Debug, Default)]
pub struct StockVacuum {
    sold_count: AtomicUsize,
    threshold_reached: Notify,
}

impl StockVacuum {
    /// So many cards were sold.
    pub fn record_cards_sold(&self, cards: usize) {
        let before = self.sold_count.fetch_add(cards, Ordering::Relaxed);
        if before < VACUUM_THRESHOLD && before + cards >= VACUUM_THRESHOLD {
            self.threshold_reached.notify_one();
        }
    }

    /// Sweeps whenever it is time. Run it beside the server.
    pub async fn run(&self, pool: &PgPool) {
        loop {
            self.threshold_reached.notified().await;
            self.sold_count.store(0, Ordering::Relaxed);
            let begun = Instant::now();
            if let Err(error) = sqlx::raw_sql(VACUUM_SQL).execute(pool).await {
                tracing::debug!(%error, "the stock was not swept");
            }
            tokio::time::sleep((begun.elapsed() * COOLDOWN_FACTOR).max(COOLDOWN_MIN)).await;
        }
    }
}
