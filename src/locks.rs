//! Taking turns within one server.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, PoisonError};

use tokio::sync::{Mutex, MutexGuard, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

const SHARDS: u64 = 256;

/// Requests for the same thing queue here before they take a database connection, or those that wait for one lock would
/// hold all connections. Between servers the database's own locks decide.
#[derive(Debug)]
pub struct Locks {
    callerid_shards: Vec<Mutex<()>>,
    bulk_create: Mutex<()>,
    list_permits: Arc<Semaphore>,
    key_locks: Arc<KeyLockMap>,
}

/// An idempotency key: whose, for which operation, and as the client chose it.
pub type KeyLockId = (i32, &'static str, String);
/// The keys that somebody is at or waits for, each with its lock.
type KeyLockMap = std::sync::Mutex<HashMap<KeyLockId, Arc<Mutex<()>>>>;

impl Locks {
    /// Lists may be read on a fourth of the connections: a client that reads slowly holds one for as long as it takes.
    pub fn new(connections: u32) -> Self {
        let readers = usize::try_from(connections.div_ceil(4)).unwrap_or(1);
        Self {
            callerid_shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            bulk_create: Mutex::default(),
            list_permits: Arc::new(Semaphore::new(readers)),
            key_locks: Arc::default(),
        }
    }

    /// Waits until nobody else is at the caller id. Different ones share a lane now and then, which does no harm.
    pub async fn lock_callerid(&self, callerid: &str) -> MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        callerid.hash(&mut hasher);
        let lane = usize::try_from(hasher.finish() % SHARDS).unwrap_or(0);
        self.callerid_shards[lane].lock().await
    }

    /// Waits until a list may be read. It is, as long as the permit is held.
    pub async fn acquire_list_permit(&self) -> Option<OwnedSemaphorePermit> {
        self.list_permits.clone().acquire_owned().await.ok()
    }

    /// Waits until nobody else makes cards by the thousand.
    pub async fn lock_bulk_create(&self) -> MutexGuard<'_, ()> {
        self.bulk_create.lock().await
    }

    /// Waits until nobody else is at the idempotency key. Each has a lock of its own: a request that takes long must not
    /// make others wait that have nothing to do with it.
    pub async fn lock_key(&self, name: KeyLockId) -> KeyLock {
        let lock = lock_key_map(&self.key_locks).entry(name.clone()).or_default().clone();
        let mut turn = KeyLock { key_locks: self.key_locks.clone(), id: name, guard: None };
        turn.guard = Some(lock.lock_owned().await);
        turn
    }
}

/// The turn of an idempotency key, or the place in its queue; over when it is dropped.
#[derive(Debug)]
pub struct KeyLock {
    key_locks: Arc<KeyLockMap>,
    id: KeyLockId,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Drop for KeyLock {
    fn drop(&mut self) {
        let mut keys = lock_key_map(&self.key_locks);
        // Ours goes while nobody can look: whoever sees the map's alone is the last.
        self.guard = None;
        if keys.get(&self.id).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            keys.remove(&self.id);
        }
    }
}

fn lock_key_map(keys: &KeyLockMap) -> std::sync::MutexGuard<'_, HashMap<KeyLockId, Arc<Mutex<()>>>> {
    keys.lock().unwrap_or_else(PoisonError::into_inner)
}
