//! The connection pool for requests.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::{Connection as _, PgConnection, PgPool, Postgres};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::session;

/// Idle time after which a connection is pinged before it is used.
pub(super) const PING_AFTER_IDLE: Duration = Duration::from_secs(1);

/// Maximum number of connections for background tasks.
const BACKGROUND_CONNECTIONS_MAX: u32 = 4;

/// Time after which a connection returns to sqlx's pool, which checks its health and its age.
const REUSE_DURATION_MAX: Duration = Duration::from_secs(60);

/// A connection pool on top of sqlx's pool, with a list of idle connections that are known to be usable.
///
/// sqlx pings each connection that is returned to its pool: one more round trip, a tenth of the cost of a sale. A
/// caller that knows that its connection has no open transaction and no running statement uses
/// [`release_clean`](Connection::release_clean) instead: the next request gets the connection without a ping. A
/// connection returns to sqlx's pool, which checks idle connections, when it stays idle or after a minute of reuse.
#[derive(Debug, Clone)]
pub struct Pool(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    pool: PgPool,
    /// One permit for each connection that may exist. The holder of a permit takes a connection from the idle list. If
    /// the list is empty, only the other permit holders have connections, so sqlx's pool has one left.
    permits: Arc<Semaphore>,
    idle: Mutex<IdleList>,
}

/// The connections that were released clean.
#[derive(Debug, Default)]
struct IdleList {
    /// Last in, first out: the connections that are not needed stay idle, and the reaper finds them.
    connections: Vec<IdleConnection>,
    is_reaper_running: bool,
}

#[derive(Debug)]
struct IdleConnection {
    connection: PoolConnection<Postgres>,
    acquired_at: Instant,
    idle_since: Instant,
}

impl IdleConnection {
    fn is_fresh(&self) -> bool {
        self.idle_since.elapsed() < PING_AFTER_IDLE
    }
}

/// The `PgPool` must have no other user: it could wait there for connections that are in the idle list here.
impl From<PgPool> for Pool {
    fn from(pool: PgPool) -> Self {
        let permits = usize::try_from(pool.options().get_max_connections()).unwrap_or(Semaphore::MAX_PERMITS);
        Self(Arc::new(Shared { pool, permits: Arc::new(Semaphore::new(permits)), idle: Mutex::default() }))
    }
}

impl Pool {
    /// Returns a connection, waiting at most the acquire timeout of sqlx's pool.
    pub async fn acquire(&self) -> sqlx::Result<Connection> {
        if let Some(connection) = self.try_idle() {
            return Ok(connection);
        }
        // Boxed: this future is large, and under load it is rarely needed.
        let acquired = Box::pin(timeout(self.0.pool.options().get_acquire_timeout(), self.acquire_waiting())).await;
        acquired.map_err(|_| sqlx::Error::PoolTimedOut)?
    }

    /// Returns the connection that was used last, if a permit and a fresh idle connection are available without
    /// waiting.
    fn try_idle(&self) -> Option<Connection> {
        let permit = self.0.permits.clone().try_acquire_owned().ok()?;
        let IdleConnection { connection, acquired_at, .. } =
            self.0.lock_idle().connections.pop_if(|idle| idle.is_fresh())?;
        Some(self.check_out(connection, acquired_at, permit))
    }

    async fn acquire_waiting(&self) -> sqlx::Result<Connection> {
        let permit = self.0.permits.clone().acquire_owned().await.map_err(|_| sqlx::Error::PoolClosed)?;
        // An idle connection that isn't fresh returns to sqlx's pool, which pings it.
        let idle = self.0.lock_idle().connections.pop().filter(IdleConnection::is_fresh);
        let (connection, acquired_at) = match idle {
            Some(IdleConnection { connection, acquired_at, .. }) => (connection, acquired_at),
            None => (self.0.pool.acquire().await?, Instant::now()),
        };
        Ok(self.check_out(connection, acquired_at, permit))
    }

    fn check_out(
        &self,
        connection: PoolConnection<Postgres>,
        acquired_at: Instant,
        permit: OwnedSemaphorePermit,
    ) -> Connection {
        Connection { connection, acquired_at, shared: self.0.clone(), permit }
    }

    /// Begins a transaction on a connection of its own.
    ///
    /// BEGIN runs in its own task, so that it completes even if the caller is cancelled. sqlx doesn't record a BEGIN
    /// whose reply is not awaited: the connection would return to the pool with an open transaction, and statements of
    /// later requests would never be committed.
    pub async fn begin(&self) -> sqlx::Result<Transaction> {
        let Connection { connection, permit, .. } = self.acquire().await?;
        let transaction = tokio::spawn(async {
            Ok(Transaction { transaction: sqlx::Transaction::begin(connection, None).await?, _permit: permit })
        });
        transaction.await.map_err(|_| sqlx::Error::WorkerCrashed)?
    }

    /// Returns a pool of a few extra connections, opened on demand, for background tasks (change listener, vacuum,
    /// monitoring, e-mails). These tasks must not wait behind requests that wait for each other.
    pub fn background_pool(&self) -> PgPool {
        let Shared { pool, .. } = &*self.0;
        let options = pool.connect_options().as_ref().clone().application_name("mortise background");
        session::pool_options(&options)
            .max_connections(BACKGROUND_CONNECTIONS_MAX)
            .acquire_timeout(pool.options().get_acquire_timeout())
            .idle_timeout(Duration::from_secs(60))
            .connect_lazy_with(options)
    }

    /// Returns the number of open connections, idle or in use.
    pub fn size(&self) -> u32 {
        self.0.pool.size()
    }

    /// Returns the number of idle connections.
    pub fn idle_count(&self) -> usize {
        self.0.pool.num_idle().saturating_add(self.0.lock_idle().connections.len())
    }

    /// Whether [`close`](Self::close) was called.
    pub fn is_closed(&self) -> bool {
        self.0.permits.is_closed()
    }

    /// Closes the idle connections, and each other one when it is returned. Later calls of [`acquire`](Self::acquire)
    /// fail.
    pub async fn close(&self) {
        self.0.permits.close();
        self.0.lock_idle().connections.clear();
        self.0.pool.close().await;
    }
}

impl Shared {
    fn lock_idle(&self) -> MutexGuard<'_, IdleList> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push_idle(self: Arc<Self>, connection: IdleConnection) {
        let mut idle = self.lock_idle();
        // `close` closes the permits first and clears the list afterwards, so no connection stays in the list.
        if !self.permits.is_closed() {
            idle.connections.push(connection);
            if !std::mem::replace(&mut idle.is_reaper_running, true) {
                tokio::spawn(Self::reap(self.clone()));
            }
        }
    }

    /// Returns idle connections that are no longer fresh to sqlx's pool. Ends when the list is empty.
    async fn reap(self: Arc<Self>) {
        loop {
            tokio::time::sleep(PING_AFTER_IDLE).await;
            let mut idle = self.lock_idle();
            idle.connections.retain(IdleConnection::is_fresh);
            if idle.connections.is_empty() {
                idle.is_reaper_running = false;
                return;
            }
        }
    }
}

/// A connection in use by one request, until it is dropped or [released](Self::release_clean).
#[derive(Debug)]
pub struct Connection {
    connection: PoolConnection<Postgres>,
    acquired_at: Instant,
    shared: Arc<Shared>,
    /// Last field: dropped after the connection.
    permit: OwnedSemaphorePermit,
}

impl Connection {
    /// Makes the connection available to the next request at once. All its statements must be complete, and no
    /// transaction may be open. A connection that is dropped instead returns to sqlx's pool, which rolls back an open
    /// transaction and pings the connection.
    pub fn release_clean(self) {
        debug_assert!(!self.connection.is_in_transaction(), "a transaction is open");
        let Self { connection, acquired_at, shared, permit } = self;
        let idle_since = Instant::now();
        if idle_since.duration_since(acquired_at) < REUSE_DURATION_MAX {
            shared.push_idle(IdleConnection { connection, acquired_at, idle_since });
        } else {
            drop(connection);
        }
        // Last: the next holder of the permit must find the connection.
        drop(permit);
    }

    /// Makes the drop of this value close the connection, even while a statement runs.
    pub fn close_on_drop(&mut self) {
        self.connection.close_on_drop();
    }
}

impl Deref for Connection {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

/// A transaction. Rolled back when it is dropped without a commit.
#[derive(Debug)]
pub struct Transaction {
    transaction: sqlx::Transaction<'static, Postgres>,
    /// Last field: dropped after the transaction.
    _permit: OwnedSemaphorePermit,
}

impl Transaction {
    /// Commits the transaction.
    pub async fn commit(self) -> sqlx::Result<()> {
        self.transaction.commit().await
    }
}

impl Deref for Transaction {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.transaction
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.transaction
    }
}
