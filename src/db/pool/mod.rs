//! The connection pool for requests.

mod connection;
mod extra;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgTransactionManager};
use sqlx::{Connection as _, PgConnection, PgPool};
use sqlx_core::transaction::TransactionManager;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

pub use self::connection::{Connection, Transaction};
use super::session;

/// Idle time after which a connection is pinged before it is used: it may have been cut without notice.
pub(super) const PING_AFTER_IDLE: Duration = Duration::from_secs(1);
/// Maximum time to ping a connection whose state is unknown. It covers the end of a cancelled statement.
const PING_TIMEOUT: Duration = Duration::from_secs(5);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Age after which a connection is not used again: PostgreSQL's processes keep memory.
const AGE_MAX: Duration = Duration::from_mins(30);
/// Idle time after which a connection is closed.
const IDLE_MAX: Duration = Duration::from_mins(10);
const REAP_INTERVAL: Duration = Duration::from_secs(30);
/// Maximum pause after a failed attempt to open a connection.
const RETRY_PAUSE_MAX: Duration = Duration::from_millis(250);
/// Maximum time for a statement that commits. Longer than `statement_timeout`, which does not end the wait for a
/// synchronous standby.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(150);

/// A connection pool that serves requests in the order in which they came.
///
/// A request that finds no idle connection waits for a permit of a semaphore, which serves them in this order. So the
/// first one gets the next connection that becomes usable: one that another request released, or a new one. New
/// connections are opened by tasks of their own, so that no request waits for an attempt that fails while other
/// connections are released.
///
/// A caller that knows that its connection has no open transaction and no running statement uses
/// [`release_clean`](Connection::release_clean): the next request gets the connection without a ping, which would be a
/// tenth of the cost of a sale. (sqlx's own pool pings each returned connection.) A connection that is dropped instead
/// is rolled back and pinged first.
#[derive(Debug, Clone)]
pub struct Pool(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    options: PgConnectOptions,
    connections_max: usize,
    acquire_timeout: Duration,
    commit_timeout: Duration,
    state: Mutex<State>,
    /// A permit for each idle connection. Only its holder may take a connection out of `State::idle`. Closed with the
    /// pool.
    idle_permits: Semaphore,
    /// A token for each connection: idle, in use, being opened or being closed.
    connections: TaskTracker,
    /// A token for each request that waits for a connection.
    waiting: TaskTracker,
    /// Sent to the requests that wait: opening a connection failed while none was open.
    open_error: watch::Sender<String>,
}

#[derive(Debug, Default)]
struct State {
    /// Last in, first out: the connections that are not needed stay idle and are closed.
    idle: Vec<Idle>,
    /// The number of connections that are being opened.
    opening: usize,
    /// Failed attempts to open a connection since the last success.
    failures: u32,
    /// No attempt is made earlier than this.
    open_after: Option<Instant>,
    is_retry_scheduled: bool,
}

#[derive(Debug)]
struct Live {
    connection: PgConnection,
    opened_at: Instant,
    token: TaskTrackerToken,
}

#[derive(Debug)]
struct Idle {
    live: Live,
    since: Instant,
}

/// The pool has the options and the limits of the `PgPool`, and connections of its own.
impl From<PgPool> for Pool {
    fn from(pool: PgPool) -> Self {
        Self::with_commit_timeout(&pool, COMMIT_TIMEOUT)
    }
}

impl Pool {
    /// Creates a pool with the options and the limits of the `PgPool`.
    pub fn with_commit_timeout(pool: &PgPool, commit_timeout: Duration) -> Self {
        let shared = Arc::new(Shared {
            options: pool.connect_options().as_ref().clone(),
            connections_max: usize::try_from(pool.options().get_max_connections()).unwrap_or(usize::MAX),
            acquire_timeout: pool.options().get_acquire_timeout(),
            commit_timeout,
            state: Mutex::default(),
            idle_permits: Semaphore::new(0),
            connections: TaskTracker::new(),
            waiting: TaskTracker::new(),
            open_error: watch::Sender::default(),
        });
        tokio::spawn(reap(Arc::downgrade(&shared)));
        Self(shared)
    }

    /// Returns a connection, waiting at most the acquire timeout.
    ///
    /// # Errors
    ///
    /// `PoolTimedOut`; `Io` if no connection is open and none can be opened; `PoolClosed`.
    pub async fn acquire(&self) -> sqlx::Result<Connection> {
        match self.0.take_idle(|idle| idle.pop_if(|idle| idle.since.elapsed() < PING_AFTER_IDLE)) {
            Some(connection) => Ok(connection),
            // Boxed: this future is large, and under load it is rarely needed.
            None => Box::pin(timeout(self.0.acquire_timeout, self.acquire_slowly()))
                .await
                .map_err(|_| sqlx::Error::PoolTimedOut)?,
        }
    }

    async fn acquire_slowly(&self) -> sqlx::Result<Connection> {
        // Most of the acquire timeout is left to open a connection if an idle one does not answer.
        let ping_timeout = PING_TIMEOUT.min(self.0.acquire_timeout / 4);
        while let Some(mut connection) = self.0.take_idle(Vec::pop) {
            if let Ok(Ok(())) = timeout(ping_timeout, connection.ping()).await {
                return Ok(connection);
            }
            connection.close_on_drop();
            // The others have been idle for longer.
            while let Some(mut connection) = self.0.take_idle(Vec::pop) {
                connection.close_on_drop();
            }
        }
        self.0.wait_for_connection().await
    }

    /// Begins a transaction on a connection of its own.
    pub async fn begin(&self) -> sqlx::Result<Transaction> {
        self.acquire().await?.into_transaction().await
    }

    /// Limits the time of a statement that commits. PostgreSQL waits without a limit for a synchronous standby that is
    /// away. The connection must be dropped after an error.
    ///
    /// # Errors
    ///
    /// `Io` after the commit timeout: the commit may take effect later.
    pub async fn limit_commit<T>(&self, statement: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
        limit_commit(self.0.commit_timeout, statement).await
    }

    /// Returns the number of connections, idle or in use.
    pub fn size(&self) -> usize {
        self.0.connections.len()
    }

    /// Returns the number of idle connections.
    pub fn idle_count(&self) -> usize {
        self.0.lock().idle.len()
    }

    /// Whether [`close`](Self::close) was called.
    pub fn is_closed(&self) -> bool {
        self.0.idle_permits.is_closed()
    }

    /// Closes the idle connections, and each other one when it is returned; waits until all are closed. Later calls of
    /// [`acquire`](Self::acquire) fail.
    pub async fn close(&self) {
        let idle = {
            let mut state = self.0.lock();
            self.0.idle_permits.close();
            std::mem::take(&mut state.idle)
        };
        for Idle { live, .. } in idle {
            self.0.discard(live).await;
        }
        self.0.connections.close();
        self.0.connections.wait().await;
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an idle connection that no waiting request will get.
    fn take_idle(self: &Arc<Self>, take: impl FnOnce(&mut Vec<Idle>) -> Option<Idle>) -> Option<Connection> {
        let permit = self.idle_permits.try_acquire().ok()?;
        let idle = take(&mut self.lock().idle)?;
        permit.forget();
        Some(Connection::new(self, idle.live))
    }

    /// Waits for the next usable connection, behind the requests that wait already.
    async fn wait_for_connection(self: &Arc<Self>) -> sqlx::Result<Connection> {
        let _waiting = self.waiting.token();
        let mut open_error = self.open_error.subscribe();
        self.open_connections();
        tokio::select! {
            biased;
            permit = self.idle_permits.acquire() => {
                permit.map_err(|_| sqlx::Error::PoolClosed)?.forget();
                let idle = self.lock().idle.pop().ok_or(sqlx::Error::PoolClosed)?;
                Ok(Connection::new(self, idle.live))
            }
            _ = open_error.changed() => Err(sqlx::Error::Io(io::Error::other(open_error.borrow().clone()))),
        }
    }

    /// Gives a clean connection to the request that has waited longest, or else keeps it as idle.
    fn put_back(self: &Arc<Self>, live: Live) {
        let mut state = self.lock();
        if self.idle_permits.is_closed() {
            return Connection::new(self, live).close_on_drop();
        }
        state.idle.push(Idle { live, since: Instant::now() });
        self.idle_permits.add_permits(1);
    }

    /// Makes a connection usable again whose statements or transaction the caller has not ended.
    async fn recover(self: Arc<Self>, mut live: Live) {
        while live.connection.is_in_transaction() {
            PgTransactionManager::start_rollback(&mut live.connection);
        }
        match timeout(PING_TIMEOUT, live.connection.ping()).await {
            Ok(Ok(())) if live.opened_at.elapsed() < AGE_MAX => self.put_back(live),
            _ => self.discard(live).await,
        }
    }

    async fn discard(self: &Arc<Self>, live: Live) {
        let _ = timeout(CLOSE_TIMEOUT, live.connection.close()).await;
        drop(live.token);
        self.open_connections();
    }

    /// Starts to open a connection for each request that waits, within the limits. After a failure, one attempt is made
    /// at a time, after a pause.
    fn open_connections(self: &Arc<Self>) {
        let mut state = self.lock();
        let waiting = if self.idle_permits.is_closed() { 0 } else { self.waiting.len() };
        let pause = state.open_after.map_or(Duration::ZERO, |time| time.saturating_duration_since(Instant::now()));
        if pause.is_zero() {
            let openings_max = if state.failures > 0 { waiting.min(1) } else { waiting };
            while state.opening < openings_max && self.connections.len() < self.connections_max {
                state.opening += 1;
                tokio::spawn(self.clone().open(self.connections.token()));
            }
        } else if waiting > 0 && !std::mem::replace(&mut state.is_retry_scheduled, true) {
            let shared = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(pause).await;
                shared.lock().is_retry_scheduled = false;
                shared.open_connections();
            });
        }
    }

    async fn open(self: Arc<Self>, token: TaskTrackerToken) {
        let opened = timeout(self.acquire_timeout, session::connect(&self.options)).await;
        let opened =
            opened.unwrap_or_else(|_| Err(timed_out(format!("not connected within {:?}", self.acquire_timeout))));
        let mut state = self.lock();
        state.opening -= 1;
        match opened {
            Ok(connection) => {
                (state.failures, state.open_after) = (0, None);
                drop(state);
                self.put_back(Live { connection, opened_at: Instant::now(), token });
            }
            Err(error) => {
                let is_first_failure = state.failures == 0;
                let pause = Duration::from_millis(10) * 2_u32.pow(state.failures.min(5));
                state.failures = state.failures.saturating_add(1);
                state.open_after = Some(Instant::now() + pause.min(RETRY_PAUSE_MAX));
                drop((state, token));
                if is_first_failure {
                    tracing::warn!(%error, "cannot open a database connection, retrying");
                }
                // While a connection is in use, the requests wait for its release.
                if self.connections.is_empty() && !is_transient(&error) {
                    self.open_error.send_replace(format!("cannot open a connection: {error}"));
                }
            }
        }
        self.open_connections();
    }
}

async fn limit_commit<T>(limit: Duration, statement: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
    timeout(limit, statement).await.unwrap_or_else(|_| Err(timed_out(format!("no answer to a commit for {limit:?}"))))
}

fn timed_out(message: String) -> sqlx::Error {
    sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, message))
}

/// Whether a connection can probably be opened soon: the limit on connections is reached (53300), or the server is
/// starting (57P03, refused).
fn is_transient(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => matches!(error.code().as_deref(), Some("53300" | "57P03")),
        sqlx::Error::Io(error) => error.kind() == io::ErrorKind::ConnectionRefused,
        _ => false,
    }
}

/// Closes connections that have been idle for long, until the pool is dropped.
async fn reap(pool: Weak<Shared>) {
    loop {
        tokio::time::sleep(REAP_INTERVAL).await;
        let Some(pool) = pool.upgrade() else { return };
        // The first one has been idle for longest.
        let expired = |idle: &mut Vec<Idle>| {
            let is_expired = idle.first().is_some_and(|first| first.since.elapsed() >= IDLE_MAX);
            is_expired.then(|| idle.remove(0))
        };
        while let Some(mut connection) = pool.take_idle(expired) {
            connection.close_on_drop();
        }
    }
}
