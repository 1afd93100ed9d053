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
pub(super) const IDLE: Duration = Duration::from_secs(1);

/// Connections for what isn't a request.
const ERRANDS: u32 = 4;

/// How long connections are handed from request to request, before sqlx's pool gets to look after their health and age again.
const HANDED_ON: Duration = Duration::from_secs(60);

/// sqlx's pool, and beside it the connections that are known to be sound.
///
/// sqlx asks each connection that comes back for a sign of life: a statement more, which costs a tenth of a sale. So whoever knows that
/// nothing is left undone on his connection [keeps](Connection::keep) it for the next request.
#[derive(Debug, Clone)]
pub struct Pool(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    pool: PgPool,
    /// One for each connection there may be. Who has one finds a connection kept here, or sqlx's pool has one for him: those that lie
    /// here idle are never in the way of those who wait there.
    turns: Arc<Semaphore>,
    /// The last to come is the first to go: the others grow idle.
    kept: Mutex<Vec<Kept>>,
}

#[derive(Debug)]
struct Kept {
    connection: PoolConnection<Postgres>,
    from_pool: Instant,
    since: Instant,
}

impl From<PgPool> for Pool {
    fn from(pool: PgPool) -> Self {
        let turns = usize::try_from(pool.options().get_max_connections()).unwrap_or(Semaphore::MAX_PERMITS);
        Self(Arc::new(Shared { pool, turns: Arc::new(Semaphore::new(turns)), kept: Mutex::default() }))
    }
}

impl Pool {
    /// A connection, waited for as long as sqlx's pool waits.
    pub async fn acquire(&self) -> sqlx::Result<Connection> {
        if let Some(connection) = self.at_hand() {
            return Ok(connection);
        }
        // In a box: it is large, and seldom needed while all goes well.
        let waited = Box::pin(timeout(self.0.pool.options().get_acquire_timeout(), self.wait())).await;
        waited.map_err(|_| sqlx::Error::PoolTimedOut)?
    }

    /// The connection that was used last, if nobody has to wait for anything.
    fn at_hand(&self) -> Option<Connection> {
        let turn = self.0.turns.clone().try_acquire_owned().ok()?;
        let Kept { connection, from_pool, .. } = self.kept().pop_if(|kept| kept.since.elapsed() < IDLE)?;
        Some(self.lend(connection, from_pool, turn))
    }

    async fn wait(&self) -> sqlx::Result<Connection> {
        let turn = self.0.turns.clone().acquire_owned().await.map_err(|_| sqlx::Error::PoolClosed)?;
        loop {
            let kept = self.kept().pop();
            let Some(Kept { mut connection, from_pool, since }) = kept else { break };
            if since.elapsed() < IDLE || connection.ping().await.is_ok() {
                return Ok(self.lend(connection, from_pool, turn));
            }
            connection.close_on_drop();
        }
        Ok(self.lend(self.0.pool.acquire().await?, Instant::now(), turn))
    }

    fn lend(&self, connection: PoolConnection<Postgres>, from_pool: Instant, turn: OwnedSemaphorePermit) -> Connection {
        Connection { connection, from_pool, shared: self.0.clone(), turn }
    }

    /// A transaction on a connection of its own.
    pub async fn begin(&self) -> sqlx::Result<Transaction> {
        let Connection { connection, turn, .. } = self.acquire().await?;
        Ok(Transaction { transaction: sqlx::Transaction::begin(connection, None).await?, _turn: turn })
    }

    /// A few connections beside these, made when they are needed: for listening, sweeping, watching. What these do mustn't wait for a
    /// turn among requests that wait for each other.
    pub fn errands(&self) -> PgPool {
        let Shared { pool, .. } = &*self.0;
        PgPoolOptions::new()
            .max_connections(ERRANDS)
            .acquire_timeout(pool.options().get_acquire_timeout())
            .idle_timeout(Duration::from_secs(60))
            .connect_lazy_with(pool.connect_options().as_ref().clone().application_name("mortise errands"))
    }

    /// Connections there are.
    pub fn size(&self) -> u32 {
        self.0.pool.size()
    }

    /// Those of them that nobody uses.
    pub fn idle(&self) -> usize {
        self.0.pool.num_idle() + self.kept().len()
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        self.0.turns.is_closed()
    }

    /// Gives out no more connections, and closes each as it comes back.
    pub async fn close(&self) {
        self.0.turns.close();
        self.kept().clear();
        self.0.pool.close().await;
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that is a request's until it is dropped or [kept](Self::keep).
#[derive(Debug)]
pub struct Connection {
    connection: PoolConnection<Postgres>,
    from_pool: Instant,
    shared: Arc<Shared>,
    turn: OwnedSemaphorePermit,
}

impl Connection {
    /// For the next request, at once: all statements came to their ends, and no transaction is open. What isn't kept goes through
    /// sqlx's pool, which rolls back what was left, and finds out whether the connection is any good.
    pub fn keep(self) {
        let Self { connection, from_pool, shared, turn } = self;
        let since = Instant::now();
        if since.duration_since(from_pool) < HANDED_ON {
            let mut kept = shared.kept.lock().unwrap_or_else(PoisonError::into_inner);
            // Whoever closes the pool empties this afterwards.
            if !shared.turns.is_closed() {
                kept.push(Kept { connection, from_pool, since });
            }
        }
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
    _turn: OwnedSemaphorePermit,
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
