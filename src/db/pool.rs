//! The connections that requests share.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection as _, PgConnection, PgPool, Postgres};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// After how long an idle connection is asked for a sign of life before it is used.
pub(super) const PING_AFTER_IDLE: Duration = Duration::from_secs(1);

/// Connections for what isn't a request.
const BACKGROUND_CONNECTIONS_MAX: u32 = 4;

/// How long connections are handed from request to request, before sqlx's pool gets to look after their health and age again.
const REUSE_DURATION_MAX: Duration = Duration::from_secs(60);

/// sqlx's pool, and beside it the connections that are known to be sound.
///
/// sqlx asks each connection that comes back for a sign of life: a statement more, which costs a tenth of a sale. So whoever knows that
/// nothing is left undone on his connection [keeps](Connection::keep) it for the next request. One that nobody takes soon goes back to
/// sqlx's pool, which looks after idle connections, and so does each after a while.
#[derive(Debug, Clone)]
pub struct Pool(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    pool: PgPool,
    /// One for each connection there may be. Who has one finds a connection kept here, or sqlx's pool has one for him: those that lie
    /// here idle are never in the way of those who wait there.
    permits: Arc<Semaphore>,
    idle: Mutex<IdleList>,
}

/// The connections that are kept.
#[derive(Debug, Default)]
struct IdleList {
    /// The last to come is the first to go: the others grow idle.
    connections: Vec<IdleConnection>,
    /// Whether somebody takes away those that nobody takes.
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

/// The pool must be nobody else's: he might wait there in vain while connections are kept here.
impl From<PgPool> for Pool {
    fn from(pool: PgPool) -> Self {
        let turns = usize::try_from(pool.options().get_max_connections()).unwrap_or(Semaphore::MAX_PERMITS);
        Self(Arc::new(Shared { pool, permits: Arc::new(Semaphore::new(turns)), idle: Mutex::default() }))
    }
}

impl Pool {
    /// A connection, waited for as long as sqlx's pool waits.
    pub async fn acquire(&self) -> sqlx::Result<Connection> {
        if let Some(connection) = self.try_idle() {
            return Ok(connection);
        }
        // In a box: it is large, and seldom needed where there is much to do.
        let waited = Box::pin(timeout(self.0.pool.options().get_acquire_timeout(), self.acquire_waiting())).await;
        waited.map_err(|_| sqlx::Error::PoolTimedOut)?
    }

    /// The connection that was used last, if nobody has to wait for anything.
    fn try_idle(&self) -> Option<Connection> {
        let turn = self.0.permits.clone().try_acquire_owned().ok()?;
        let IdleConnection { connection, acquired_at: from_pool, .. } =
            self.0.lock_idle().connections.pop_if(|kept| kept.is_fresh())?;
        Some(self.check_out(connection, from_pool, turn))
    }

    async fn acquire_waiting(&self) -> sqlx::Result<Connection> {
        let turn = self.0.permits.clone().acquire_owned().await.map_err(|_| sqlx::Error::PoolClosed)?;
        // One that isn't fresh goes back to sqlx's pool, which finds out whether it lives.
        let kept = self.0.lock_idle().connections.pop().filter(IdleConnection::is_fresh);
        let (connection, from_pool) = match kept {
            Some(IdleConnection { connection, acquired_at: from_pool, .. }) => (connection, from_pool),
            None => (self.0.pool.acquire().await?, Instant::now()),
        };
        Ok(self.check_out(connection, from_pool, turn))
    }

    fn check_out(
        &self,
        connection: PoolConnection<Postgres>,
        from_pool: Instant,
        turn: OwnedSemaphorePermit,
    ) -> Connection {
        Connection { connection, acquired_at: from_pool, shared: self.0.clone(), permit: turn }
    }

    /// A transaction on a connection of its own.
    ///
    /// It is begun whether or not somebody still waits for it: sqlx forgets a BEGIN whose answer nobody waits for, the connection would
    /// come back with an open transaction, and what others do on it would never be committed.
    pub async fn begin(&self) -> sqlx::Result<Transaction> {
        let Connection { connection, permit: turn, .. } = self.acquire().await?;
        let begun = tokio::spawn(async {
            Ok(Transaction { transaction: sqlx::Transaction::begin(connection, None).await?, _permit: turn })
        });
        begun.await.map_err(|_| sqlx::Error::WorkerCrashed)?
    }

    /// A few connections beside these, made when they are needed: for listening, sweeping, watching. What these do mustn't wait for a
    /// turn among requests that wait for each other.
    pub fn background_pool(&self) -> PgPool {
        let Shared { pool, .. } = &*self.0;
        PgPoolOptions::new()
            .max_connections(BACKGROUND_CONNECTIONS_MAX)
            .acquire_timeout(pool.options().get_acquire_timeout())
            .idle_timeout(Duration::from_secs(60))
            .connect_lazy_with(pool.connect_options().as_ref().clone().application_name("mortise errands"))
    }

    /// Connections there are.
    pub fn size(&self) -> u32 {
        self.0.pool.size()
    }

    /// Those of them that nobody uses.
    pub fn idle_count(&self) -> usize {
        self.0.pool.num_idle().saturating_add(self.0.lock_idle().connections.len())
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        self.0.permits.is_closed()
    }

    /// Gives out no more connections, and closes each as it comes back.
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

    fn push_idle(self: Arc<Self>, kept: IdleConnection) {
        let mut shelf = self.lock_idle();
        // Whoever closes the pool clears the shelf afterwards.
        if !self.permits.is_closed() {
            shelf.connections.push(kept);
            if !std::mem::replace(&mut shelf.is_reaper_running, true) {
                tokio::spawn(Self::reap(self.clone()));
            }
        }
    }

    /// Gives back to sqlx's pool what nobody takes, until nothing is left.
    async fn reap(self: Arc<Self>) {
        loop {
            tokio::time::sleep(PING_AFTER_IDLE).await;
            let mut shelf = self.lock_idle();
            shelf.connections.retain(IdleConnection::is_fresh);
            if shelf.connections.is_empty() {
                shelf.is_reaper_running = false;
                return;
            }
        }
    }
}

/// A connection that is a request's until it is dropped or [kept](Self::keep).
#[derive(Debug)]
pub struct Connection {
    connection: PoolConnection<Postgres>,
    acquired_at: Instant,
    shared: Arc<Shared>,
    /// Dropped last.
    permit: OwnedSemaphorePermit,
}

impl Connection {
    /// For the next request, at once: all statements came to their ends, and no transaction is open. What isn't kept goes through
    /// sqlx's pool, which rolls back what was left, and finds out whether the connection is any good.
    pub fn release_clean(self) {
        debug_assert!(!self.connection.is_in_transaction(), "a transaction is open");
        let Self { connection, acquired_at: from_pool, shared, permit: turn } = self;
        let since = Instant::now();
        if since.duration_since(from_pool) < REUSE_DURATION_MAX {
            shared.push_idle(IdleConnection { connection, acquired_at: from_pool, idle_since: since });
        } else {
            drop(connection);
        }
        // Last, or somebody would look for the connection who doesn't find it.
        drop(turn);
    }

    /// Closes it when it is dropped, whatever is going on.
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

/// A transaction, rolled back unless it is committed.
#[derive(Debug)]
pub struct Transaction {
    transaction: sqlx::Transaction<'static, Postgres>,
    /// Dropped last.
    _permit: OwnedSemaphorePermit,
}

impl Transaction {
    /// Makes it last.
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
