//! Vacuum of the table `card_stock`. Sold cards leave dead entries in its index, at the position where each sale starts
//! its scan. Ten thousand of them make a sale a third slower. Autovacuum runs once a minute by default; this task runs
//! as soon as enough cards were sold.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sqlx::PgPool;
use tokio::sync::Notify;

/// Number of sold cards after which a vacuum is worth its cost.
const VACUUM_THRESHOLD: usize = 1_000;
/// A vacuum reads the whole index. The pause after it is twenty times its duration, so it takes a twentieth of the time
/// at most.
const COOLDOWN_FACTOR: u32 = 20;
const COOLDOWN_MIN: Duration = Duration::from_millis(200);

/// `skip_locked`: if the table is locked, another vacuum most probably runs. `index_cleanup on`: PostgreSQL would
/// otherwise skip the index while dead entries are few for the table's size.
const VACUUM_SQL: &str = "vacuum (index_cleanup on, truncate off, process_toast off, skip_locked) card_stock";

/// Counts sold cards, and vacuums `card_stock` when there are enough.
#[derive(Debug, Default)]
pub struct StockVacuum {
    sold_count: AtomicUsize,
    threshold_reached: Notify,
}

impl StockVacuum {
    /// Records that `count` cards were sold.
    pub fn record_cards_sold(&self, count: usize) {
        let previous = self.sold_count.fetch_add(count, Ordering::Relaxed);
        if previous < VACUUM_THRESHOLD && previous + count >= VACUUM_THRESHOLD {
            self.threshold_reached.notify_one();
        }
    }

    /// Runs a vacuum each time the threshold is reached. Never returns.
    pub async fn run(&self, pool: &PgPool) {
        loop {
            self.threshold_reached.notified().await;
            self.sold_count.store(0, Ordering::Relaxed);
            let started_at = Instant::now();
            if let Err(error) = sqlx::raw_sql(VACUUM_SQL).execute(pool).await {
                tracing::debug!(%error, "stock vacuum failed");
            }
            tokio::time::sleep((started_at.elapsed() * COOLDOWN_FACTOR).max(COOLDOWN_MIN)).await;
        }
    }
}
