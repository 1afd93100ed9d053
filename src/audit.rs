//! The audit rows of refusals (`data.md`, "Audit"). Rows for changes are written in the change's own transaction, beside
//! its SQL.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use sqlx::{PgExecutor, PgPool};
use tokio::sync::mpsc::{self, Receiver, Sender};

/// Rows that may wait to be written. Beyond it, under a flood of refusals, rows are dropped and counted.
const QUEUE_LEN_MAX: usize = 10_000;
const BATCH_LEN_MAX: usize = 100;
/// For each row that was written: whoever floods us with wrong hashes gets no more than five hundred a second, and log lines only
/// for those that may wait.
const PAUSE_PER_ROW: Duration = Duration::from_millis(2);

/// A refused request, for the table `actions`.
#[derive(Debug)]
pub struct AuditRow {
    /// What happened, in MOR's words.
    pub message: &'static str,
    /// The URL, secrets masked.
    pub url: String,
    /// The client's address.
    pub client_addr: String,
    /// The names of the parameters.
    pub parameter_names: String,
}

/// Gathers refusals; [`Audit::write`] puts them into the database in the background.
#[derive(Debug)]
pub struct AuditQueue {
    sender: Sender<AuditRow>,
    /// How many were dropped.
    pub dropped: Counter,
}

impl AuditQueue {
    /// The audit, and what its writer reads from.
    pub fn new() -> (Self, Receiver<AuditRow>) {
        let (waiting, rows) = mpsc::channel(QUEUE_LEN_MAX);
        (Self { sender: waiting, dropped: Counter::default() }, rows)
    }

    /// Takes a refusal down without waiting for anything; `false` where too many wait already. Then it only counts, and nobody
    /// should do more for it.
    pub fn enqueue(&self, refusal: impl FnOnce() -> AuditRow) -> bool {
        let place = self.sender.try_reserve();
        if place.is_err() {
            let dropped = self.dropped.inc() + 1;
            if dropped.is_power_of_two() {
                tracing::warn!(dropped, "more refusals than can be written down: log lines and audit rows are missing");
            }
        }
        place.map(|place| place.send(refusal())).is_ok()
    }

    /// Writes until every [`Audit`] that notes is gone and all it noted is written.
    pub async fn run_writer(pool: PgPool, mut rows: Receiver<AuditRow>) {
        let mut batch = Vec::new();
        // At the end there is little time.
        while rows.recv_many(&mut batch, if rows.is_closed() { QUEUE_LEN_MAX } else { BATCH_LEN_MAX }).await > 0 {
            if let Err(error) = insert(&pool, &batch).await {
                tracing::warn!(%error, rows = batch.len(), "audit rows of refusals are lost");
            }
            if !rows.is_closed() {
                tokio::time::sleep(PAUSE_PER_ROW * u32::try_from(batch.len()).unwrap_or(u32::MAX)).await;
            }
            batch.clear();
        }
    }
}

/// Writes refusals, in the order given.
pub async fn insert(database: impl PgExecutor<'_>, refusals: &[AuditRow]) -> sqlx::Result<()> {
    let column = |of: fn(&AuditRow) -> &str| refusals.iter().map(|row| of(row).to_owned()).collect::<Vec<_>>();
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
