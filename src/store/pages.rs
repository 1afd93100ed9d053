//! Lists that are read in pages. Each page is a short statement with a snapshot of its own, and is complete before its
//! first row is sent. While the client takes no data, the list holds neither a database connection nor a snapshot: an
//! old snapshot prevents the vacuum of sold cards, and sales slow down.

use std::io;
use std::time::Duration;

use async_stream::try_stream;
use futures_util::Stream;
use sqlx::postgres::PgConnection;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::db::pool::{Connection, Pool};
use crate::locks::ListPermit;

/// Maximum number of rows of a page. With fewer, planning and round trips take a noticeable part of the time; with
/// more, a list needs more memory: it holds two pages.
pub const PAGE_ROWS: i64 = 1_000;
/// How long a client may take for a whole list.
pub const LIST_DURATION_MAX: Duration = Duration::from_hours(1);

/// Begins a statement that continues a list in the order of an index, planned for its values. If the planner could
/// sort, a wrong estimate would make each page read and sort all rows again. It may take ten minutes, because a filter
/// can match few of the rows.
pub const BEGIN_NEXT_PAGE: &str = "begin read only; set local plan_cache_mode = force_custom_plan;
    set local enable_incremental_sort = off; set local statement_timeout = '10min'";
/// Begins a statement that reads the cards of a group without a number. They are few, so that they may be sorted.
pub const BEGIN_UNNUMBERED: &str = "begin read only; set local plan_cache_mode = force_custom_plan";

/// Begins a statement that may read whole tables, planned for its values. Other statements use indexes only
/// ([session settings](crate::db::session)).
pub const BEGIN_READ_ONLY: &str =
    "begin read only; set local plan_cache_mode = force_custom_plan; set local enable_seqscan = on;
    set local enable_bitmapscan = on; set local enable_hashjoin = on; set local enable_mergejoin = on;
    set local enable_sort = on; set local work_mem = '64MB'; set local statement_timeout = '1h'";
/// Begins a statement that reads a small part of large tables, such as the payments of a day, planned for its values.
/// It finds the rows by indexes, also if the statistics are missing or old. It may sort what it has found.
pub const BEGIN_READ_BY_INDEX: &str =
    "begin read only; set local plan_cache_mode = force_custom_plan; set local enable_bitmapscan = on;
    set local enable_sort = on; set local work_mem = '64MB'; set local statement_timeout = '1h'";

/// Reads a list page by page.
pub trait PageReader: Send + 'static {
    /// A row of the list.
    type Row: Send + 'static;

    /// Reads the next page. `None`: the previous page was the last one.
    ///
    /// # Errors
    ///
    /// Database errors.
    fn next_page(&mut self) -> impl Future<Output = sqlx::Result<Option<Vec<Self::Row>>>> + Send;
}

/// Streams the rows of all pages. While a page is sent, a task reads the next one, but not more: a slow client does not
/// delay the end of a statement. Dropping the stream cancels the task.
///
/// # Errors
///
/// The errors of the reader, and [`io::ErrorKind::TimedOut`] if a page is due later than `duration_max` after the
/// start.
pub fn stream_pages<Reader: PageReader>(
    mut reader: Reader,
    duration_max: Duration,
) -> impl Stream<Item = sqlx::Result<Reader::Row>> + Send {
    let started_at = Instant::now();
    let (sender, mut pages) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut is_first = true;
        // The place is free as soon as the stream has taken the previous page.
        while let Ok(place) = sender.reserve().await {
            let page = if !is_first && started_at.elapsed() >= duration_max {
                let message = format!("the client took longer than {} s for the list", duration_max.as_secs());
                Err(sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, message)))
            } else {
                tokio::select! {
                    page = reader.next_page() => page,
                    () = sender.closed() => return,
                }
            };
            let is_last = !matches!(page, Ok(Some(_)));
            place.send(page);
            if is_last {
                return;
            }
            is_first = false;
        }
    });
    try_stream! {
        // The task has sent the end of the list, unless it panicked.
        while let Some(rows) = pages.recv().await.unwrap_or(Err(sqlx::Error::WorkerCrashed))? {
            for row in rows {
                yield row;
            }
        }
    }
}

/// The connections of one list: one at a time, and none between two pages.
#[derive(Debug)]
pub struct ListConnections {
    pool: Pool,
    permit: ListPermit,
}

impl ListConnections {
    /// The connections of the list with this permit.
    pub fn new(pool: Pool, permit: ListPermit) -> Self {
        Self { pool, permit }
    }

    /// Runs `read` on a connection. If the returned future is dropped, the connection is closed: otherwise it would
    /// have to receive the remaining rows first.
    ///
    /// # Errors
    ///
    /// [`sqlx::Error::PoolTimedOut`] without a free connection, and the errors of `read`.
    pub async fn with_connection<Rows>(
        &mut self,
        read: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<Rows>,
    ) -> sqlx::Result<Rows> {
        let _page_permit = self.permit.acquire_page().await.ok_or(sqlx::Error::PoolClosed)?;
        let mut guard = CloseOnCancel(Some(self.pool.acquire().await?));
        let Some(connection) = &mut guard.0 else { return Err(sqlx::Error::PoolClosed) };
        let rows = read(connection).await?;
        if let Some(connection) = guard.0.take() {
            connection.release_clean();
        }
        Ok(rows)
    }
}

/// A connection that is closed on drop.
struct CloseOnCancel(Option<Connection>);

impl Drop for CloseOnCancel {
    fn drop(&mut self) {
        if let Some(connection) = &mut self.0 {
            connection.close_on_drop();
        }
    }
}
