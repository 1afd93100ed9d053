//! Taking turns within one server.

use std::hash::{DefaultHasher, Hash, Hasher};

use std::sync::Arc;

use tokio::sync::{Mutex, MutexGuard, OwnedSemaphorePermit, Semaphore};

const LANES: u64 = 256;

/// Requests for the same thing queue here before they take a database connection, or those that wait for one lock would
/// hold all connections. Between servers the database's own locks decide.
#[derive(Debug)]
pub struct Turns {
    callerids: Vec<Mutex<()>>,
    card_makers: Mutex<()>,
    list_readers: Arc<Semaphore>,
}

impl Turns {
    /// Lists may be read on a fourth of the connections: a client that reads slowly holds one for as long as it takes.
    pub fn new(connections: u32) -> Self {
        let readers = usize::try_from(connections.div_ceil(4)).unwrap_or(1);
        Self {
            callerids: (0..LANES).map(|_| Mutex::default()).collect(),
            card_makers: Mutex::default(),
            list_readers: Arc::new(Semaphore::new(readers)),
        }
    }

    /// Waits until nobody else is at the caller id. Different ones share a lane now and then, which does no harm.
    pub async fn of_callerid(&self, callerid: &str) -> MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        callerid.hash(&mut hasher);
        let lane = usize::try_from(hasher.finish() % LANES).unwrap_or(0);
        self.callerids[lane].lock().await
    }

    /// Waits until a list may be read. It is, as long as the permit is held.
    pub async fn of_list_readers(&self) -> Option<OwnedSemaphorePermit> {
        self.list_readers.clone().acquire_owned().await.ok()
    }

    /// Waits until nobody else makes cards by the thousand.
    pub async fn of_card_makers(&self) -> MutexGuard<'_, ()> {
        self.card_makers.lock().await
    }
}
