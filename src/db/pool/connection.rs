//! A connection and a transaction of the [pool](super::Pool).

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use sqlx::postgres::PgTransactionManager;
use sqlx::{Connection as _, PgConnection};
use sqlx_core::transaction::TransactionManager;
use tokio::runtime::Handle;

use super::{AGE_MAX, Live, Shared, limit_commit};

/// A connection in use by one request, until it is dropped or [released](Self::release_clean).
#[derive(Debug)]
pub struct Connection {
    /// `None` only while it is returned to the pool.
    live: Option<Live>,
    is_closed_on_drop: bool,
    shared: Arc<Shared>,
}

impl Connection {
    pub(super) fn new(shared: &Arc<Shared>, live: Live) -> Self {
        Self { live: Some(live), is_closed_on_drop: false, shared: shared.clone() }
    }

    pub(super) async fn into_transaction(mut self) -> sqlx::Result<Transaction> {
        // sqlx doesn't record a BEGIN whose reply is not awaited: on a connection that is used again, statements of
        // later requests would never be committed. So the connection is closed if the caller is cancelled here.
        self.is_closed_on_drop = true;
        PgTransactionManager::begin(&mut self, None).await?;
        self.is_closed_on_drop = false;
        Ok(Transaction(self))
    }

    /// Makes the connection available to the next request at once. All its statements must be complete, and no
    /// transaction may be open. A connection that is dropped instead is rolled back and pinged first.
    pub fn release_clean(mut self) {
        debug_assert!(!self.is_in_transaction(), "a transaction is open");
        if let Some(live) = self.live.take_if(|live| live.opened_at.elapsed() < AGE_MAX) {
            self.shared.put_back(live);
        }
    }

    /// Makes the drop of this value close the connection, even while a statement runs.
    pub fn close_on_drop(&mut self) {
        self.is_closed_on_drop = true;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Without a runtime, at the end of the process, the connection is closed without a Terminate message.
        let (Some(live), Ok(runtime)) = (self.live.take(), Handle::try_current()) else { return };
        let shared = self.shared.clone();
        match self.is_closed_on_drop {
            true => runtime.spawn(async move { shared.discard(live).await }),
            false => runtime.spawn(shared.recover(live)),
        };
    }
}

impl Deref for Connection {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        match &self.live {
            Some(live) => &live.connection,
            None => unreachable!("a connection is used after its return"),
        }
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut PgConnection {
        match &mut self.live {
            Some(live) => &mut live.connection,
            None => unreachable!("a connection is used after its return"),
        }
    }
}

/// A transaction. Rolled back when it is dropped without a commit.
#[derive(Debug)]
pub struct Transaction(Connection);

impl Transaction {
    /// Commits the transaction. After an error, the commit can have taken effect: see [`Pool::limit_commit`].
    ///
    /// [`Pool::limit_commit`]: super::Pool::limit_commit
    pub async fn commit(mut self) -> sqlx::Result<()> {
        let limit = self.0.shared.commit_timeout;
        limit_commit(limit, PgTransactionManager::commit(&mut self.0)).await?;
        self.0.release_clean();
        Ok(())
    }
}

impl Deref for Transaction {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.0
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.0
    }
}
