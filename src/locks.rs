//! Taking turns within one server.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, PoisonError};

use tokio::sync::{Mutex, MutexGuard, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

const LANES: u64 = 256;

/// Requests for the same thing queue here before they take a database connection, or those that wait for one lock would
/// hold all connections. Between servers the database's own locks decide.
#[derive(Debug)]
pub struct Turns {
    callerids: Vec<Mutex<()>>,
    card_makers: Mutex<()>,
    list_readers: Arc<Semaphore>,
    keys: Arc<Keys>,
}

/// An idempotency key: whose, for which operation, and as the client chose it.
pub type KeyName = (i32, &'static str, String);
/// The keys that somebody is at or waits for, each with its lock.
type Keys = std::sync::Mutex<HashMap<KeyName, Arc<Mutex<()>>>>;

impl Turns {
    /// Lists may be read on a fourth of the connections: a client that reads slowly holds one for as long as it takes.
    pub fn new(connections: u32) -> Self {
        let readers = usize::try_from(connections.div_ceil(4)).unwrap_or(1);
        Self {
            callerids: (0..LANES).map(|_| Mutex::default()).collect(),
            card_makers: Mutex::default(),
            list_readers: Arc::new(Semaphore::new(readers)),
            keys: Arc::default(),
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

    /// Waits until nobody else is at the idempotency key. Each has a lock of its own: a request that takes long must not
    /// make others wait that have nothing to do with it.
    pub async fn of_key(&self, name: KeyName) -> KeyTurn {
        let lock = locked(&self.keys).entry(name.clone()).or_default().clone();
        let mut turn = KeyTurn { keys: self.keys.clone(), name, guard: None };
        turn.guard = Some(lock.lock_owned().await);
        turn
    }
}

/// The turn of an idempotency key, or the place in its queue; over when it is dropped.
#[derive(Debug)]
pub struct KeyTurn {
    keys: Arc<Keys>,
    name: KeyName,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Drop for KeyTurn {
    fn drop(&mut self) {
        let mut keys = locked(&self.keys);
        // Ours goes while nobody can look: whoever sees the map's alone is the last.
        self.guard = None;
        if keys.get(&self.name).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            keys.remove(&self.name);
        }
    }
}

fn locked(keys: &Keys) -> std::sync::MutexGuard<'_, HashMap<KeyName, Arc<Mutex<()>>>> {
    keys.lock().unwrap_or_else(PoisonError::into_inner)
}
