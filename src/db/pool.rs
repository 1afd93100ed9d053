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
/// nothing is left undone on his connection [keeps](Connection::keep) it for the next request. One that nobody takes soon goes back to
/// sqlx's pool, which looks after idle connections, and so does each after a while.
#[derive(Debug, Clone)]
pub struct Pool(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    pool: PgPool,
    /// One for each connection there may be. Who has one finds a connection kept here, or sqlx's pool has one for him: those that lie
    /// here idle are never in the way of those who wait there.
    turns: Arc<Semaphore>,
    shelf: Mutex<Shelf>,
}

/// The connections that are kept.
#[derive(Debug, Default)]
struct Shelf {
    /// The last to come is the first to go: the others grow idle.
    kept: Vec<Kept>,
    /// Whether somebody takes away those that nobody takes.
    is_tidied: bool,
}

#[derive(Debug)]
struct Kept {
    connection: PoolConnection<Postgres>,
    from_pool: Instant,
    since: Instant,
}

impl Kept {
    fn is_fresh(&self) -> bool {
        self.since.elapsed() < IDLE
    }
}

/// The pool must be nobody else's: he might wait there in vain while connections are kept here.
impl From<PgPool> for Pool {
    fn from(pool: PgPool) -> Self {
        let turns = usize::try_from(pool.options().get_max_connections()).unwrap_or(Semaphore::MAX_PERMITS);
        Self(Arc::new(Shared { pool, turns: Arc::new(Semaphore::new(turns)), shelf: Mutex::default() }))
    }
}

impl Pool {
    /// A connection, waited for as long as sqlx's pool waits.
    pub async fn acquire(&self) -> sqlx::Result<Connection> {
        if let Some(connection) = self.at_hand() {
            return Ok(connection);
        }
        // In a box: it is large, and seldom needed where there is much to do.
        let waited = Box::pin(timeout(self.0.pool.options().get_acquire_timeout(), self.wait())).await;
        waited.map_err(|_| sqlx::Error::PoolTimedOut)?
    }

    /// The connection that was used last, if nobody has to wait for anything.
    fn at_hand(&self) -> Option<Connection> {
        let turn = self.0.turns.clone().try_acquire_owned().ok()?;
        let Kept { connection, from_pool, .. } = self.0.shelf().kept.pop_if(|kept| kept.is_fresh())?;
        Some(self.lend(connection, from_pool, turn))
    }

    async fn wait(&self) -> sqlx::Result<Connection> {
        let turn = self.0.turns.clone().acquire_owned().await.map_err(|_| sqlx::Error::PoolClosed)?;
        // One that isn't fresh goes back to sqlx's pool, which finds out whether it lives.
        let kept = self.0.shelf().kept.pop().filter(Kept::is_fresh);
        let (connection, from_pool) = match kept {
            Some(Kept { connection, from_pool, .. }) => (connection, from_pool),
            None => (self.0.pool.acquire().await?, Instant::now()),
        };
        Ok(self.lend(connection, from_pool, turn))
    }

    fn lend(&self, connection: PoolConnection<Postgres>, from_pool: Instant, turn: OwnedSemaphorePermit) -> Connection {
        Connection { connection, from_pool, shared: self.0.clone(), turn }
    }

    /// A transaction on a connection of its own.
    ///
    /// It is begun whether or not somebody still waits for it: sqlx forgets a BEGIN whose answer nobody waits for, the connection would
    /// come back with an open transaction, and what others do on it would never be committed.
    pub async fn begin(&self) -> sqlx::Result<Transaction> {
        let Connection { connection, turn, .. } = self.acquire().await?;
        let begun = tokio::spawn(async {
            Ok(Transaction { transaction: sqlx::Transaction::begin(connection, None).await?, _turn: turn })
        });
        begun.await.map_err(|_| sqlx::Error::WorkerCrashed)?
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
        self.0.pool.num_idle().saturating_add(self.0.shelf().kept.len())
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        self.0.turns.is_closed()
    }

    /// Gives out no more connections, and closes each as it comes back.
    pub async fn close(&self) {
        self.0.turns.close();
        self.0.shelf().kept.clear();
        self.0.pool.close().await;
    }
}

impl Shared {
    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(self: Arc<Self>, kept: Kept) {
        let mut shelf = self.shelf();
        // Whoever closes the pool clears the shelf afterwards.
        if !self.turns.is_closed() {
            shelf.kept.push(kept);
            if !std::mem::replace(&mut shelf.is_tidied, true) {
                tokio::spawn(Self::tidy(self.clone()));
            }
        }
    }

    /// Gives back to sqlx's pool what nobody takes, until nothing is left.
    async fn tidy(self: Arc<Self>) {
        loop {
            tokio::time::sleep(IDLE).await;
            let mut shelf = self.shelf();
            shelf.kept.retain(Kept::is_fresh);
            if shelf.kept.is_empty() {
                shelf.is_tidied = false;
                return;
            }
        }
    }
}

/// A connection that is a request's until it is dropped or [kept](Self::keep).
#[derive(Debug)]
pub struct Connection {
    connection: PoolConnection<Postgres>,
    from_pool: Instant,
    shared: Arc<Shared>,
    /// Dropped last.
    turn: OwnedSemaphorePermit,
}

impl Connection {
    /// For the next request, at once: all statements came to their ends, and no transaction is open. What isn't kept goes through
    /// sqlx's pool, which rolls back what was left, and finds out whether the connection is any good.
    pub fn keep(self) {
        debug_assert!(!self.connection.is_in_transaction(), "a transaction is open");
        let Self { connection, from_pool, shared, turn } = self;
        let since = Instant::now();
        if since.duration_since(from_pool) < HANDED_ON {
            shared.keep(Kept { connection, from_pool, since });
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
