//! Audit rows of refused requests (`data.md`, "Audit"). The SQL of each change writes its own audit rows, in the
//! transaction of the change.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use sqlx::{PgExecutor, PgPool};
use tokio::sync::mpsc::{self, Receiver, Sender};

/// Maximum number of queued rows. When the queue is full, further rows are dropped and counted.
const QUEUE_LEN_MAX: usize = 10_000;
const BATCH_LEN_MAX: usize = 100;
/// Pause after a batch, for each of its rows: at most 500 rows a second are written, however many requests are refused.
/// A refusal is logged only if its row is queued.
const PAUSE_PER_ROW: Duration = Duration::from_millis(2);

/// The audit row of a refused request, for the table `actions`.
#[derive(Debug)]
pub struct AuditRow {
    /// The refusal, in MOR's wording.
    pub message: &'static str,
    /// The URL, with secrets masked.
    pub url: String,
    /// The client's address.
    pub client_addr: String,
    /// The names of the parameters.
    pub parameter_names: String,
}

/// Queues audit rows. [`AuditQueue::run_writer`] writes them to the database in the background.
#[derive(Debug)]
pub struct AuditQueue {
    sender: Sender<AuditRow>,
    /// Rows that were dropped because the queue was full.
    pub dropped: Counter,
}

impl AuditQueue {
    /// Creates the queue, and the receiver for [`AuditQueue::run_writer`].
    pub fn new() -> (Self, Receiver<AuditRow>) {
        let (sender, rows) = mpsc::channel(QUEUE_LEN_MAX);
        (Self { sender, dropped: Counter::default() }, rows)
    }

    /// Queues a row without waiting. Returns `false` if the queue is full: the row is then not built, only counted, and
    /// the caller should not log the refusal either.
    pub fn enqueue(&self, row: impl FnOnce() -> AuditRow) -> bool {
        let permit = self.sender.try_reserve();
        if permit.is_err() {
            let dropped = self.dropped.inc() + 1;
            if dropped.is_power_of_two() {
                tracing::warn!(dropped, "audit queue full, dropping rows");
            }
        }
        permit.map(|permit| permit.send(row())).is_ok()
    }

    /// Writes queued rows until the [`AuditQueue`] is dropped and the queue is empty.
    pub async fn run_writer(pool: PgPool, mut rows: Receiver<AuditRow>) {
        let mut batch = Vec::new();
        // Larger batches during the shutdown, whose time is limited.
        while rows.recv_many(&mut batch, if rows.is_closed() { QUEUE_LEN_MAX } else { BATCH_LEN_MAX }).await > 0 {
            if let Err(error) = insert(&pool, &batch).await {
                tracing::warn!(%error, rows = batch.len(), "audit write failed, rows lost");
            }
            if !rows.is_closed() {
                tokio::time::sleep(PAUSE_PER_ROW * u32::try_from(batch.len()).unwrap_or(u32::MAX)).await;
            }
            batch.clear();
        }
    }
}

/// Writes audit rows, in the order given.
pub async fn insert(database: impl PgExecutor<'_>, rows: &[AuditRow]) -> sqlx::Result<()> {
    let column = |field: fn(&AuditRow) -> &str| rows.iter().map(|row| field(row).to_owned()).collect::<Vec<_>>();
    sqlx::query!(
        "insert into actions (user_id, action, data, data2, data3, data4)
         select -1, 'error', * from unnest($1::text[], $2::text[], $3::text[], $4::text[])",
        &column(|row| row.message),
        &column(|row| &row.url),
        &column(|row| &row.client_addr),
        &column(|row| &row.parameter_names)
    )
    .execute(database)
    .await?;
    Ok(())
}
