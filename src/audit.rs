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

/// Rows that [`purge_refusals`] deletes in one statement.
const PURGE_BATCH_SIZE: u64 = 2_000;
/// Pause between two of these statements, so that the disk stays free for sales. A server deletes eight times as many
/// rows as it writes.
const PURGE_PAUSE: Duration = Duration::from_millis(500);

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

/// Deletes audit rows of refused requests that are older than `days`, in small batches. Rows of sales, payments and
/// changes stay. Returns the number of deleted rows.
///
/// Each batch runs under an advisory lock: one server among several deletes, and the others return at once.
///
/// # Errors
///
/// The error of a batch. The batches before it are deleted.
pub async fn purge_refusals(pool: &PgPool, days: u32) -> sqlx::Result<u64> {
    let mut total = 0;
    loop {
        let deleted = sqlx::query!(
            "with lock as materialized (
                 select pg_try_advisory_xact_lock(hashtextextended('mortise audit purge', 0)) as acquired
             )
             delete from actions where ctid = any (array(
                 select ctid from actions
                 where (select acquired from lock) and user_id = -1 and action = 'error'
                     and data in ('API : Incorrect hash', 'API : API must have Secret key')
                     and date < (now() at time zone 'utc') - make_interval(days => $1)
                 order by date limit $2 for update skip locked))",
            i32::try_from(days).unwrap_or(i32::MAX),
            i64::try_from(PURGE_BATCH_SIZE).unwrap_or(i64::MAX)
        )
        .execute(pool)
        .await?
        .rows_affected();
        total += deleted;
        if deleted < PURGE_BATCH_SIZE {
            return Ok(total);
        }
        tokio::time::sleep(PURGE_PAUSE).await;
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
