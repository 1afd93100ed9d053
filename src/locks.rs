//! Locks within one server.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, PoisonError};

use tokio::sync::{Mutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

const SHARDS: u64 = 256;
/// How many lists may be open at the same time. A list whose client reads slowly holds no connection, but up to two
/// pages in memory.
const OPEN_LISTS_MAX: usize = 16;
/// How many of them one user may have open: slow clients of one user leave the others to the other users.
const OPEN_LISTS_OF_USER_MAX: usize = 8;

/// Locks that requests take before a database connection. Without them, requests that wait for the same database lock
/// could hold all connections. Between servers, only the locks of the database apply.
#[derive(Debug)]
pub struct Locks {
    callerid_shards: Vec<Arc<Mutex<()>>>,
    bulk_create: Arc<Mutex<()>>,
    open_lists: Arc<Semaphore>,
    /// By the user's id.
    open_lists_of_users: std::sync::Mutex<HashMap<i32, Arc<Semaphore>>>,
    list_pages: Arc<Semaphore>,
    /// Requests with the same idempotency key run one at a time.
    pub keys: KeyedLocks<KeyLockId>,
}

/// An idempotency key: the user's id, the operation, and the key as the client sent it.
pub type KeyLockId = (i32, &'static str, String);

impl Locks {
    /// Creates the locks. Lists may use a fourth of the connections: a search through all cards takes long.
    pub fn new(connections: u32) -> Self {
        let list_pages = usize::try_from(connections.div_ceil(4)).unwrap_or(1);
        Self {
            callerid_shards: (0..SHARDS).map(|_| Arc::default()).collect(),
            bulk_create: Arc::default(),
            open_lists: Arc::new(Semaphore::new(OPEN_LISTS_MAX)),
            open_lists_of_users: std::sync::Mutex::default(),
            list_pages: Arc::new(Semaphore::new(list_pages)),
            keys: KeyedLocks::default(),
        }
    }

    /// Waits for the lock of a caller id. Different caller ids sometimes share a lock, which only costs time.
    pub async fn lock_callerid(&self, callerid: &str) -> OwnedMutexGuard<()> {
        let mut hasher = DefaultHasher::new();
        callerid.hash(&mut hasher);
        let shard = usize::try_from(hasher.finish() % SHARDS).unwrap_or(0);
        self.callerid_shards[shard].clone().lock_owned().await
    }

    /// Waits until another list of the user may be open and its first page may be read. The permit must be held until
    /// the list is complete.
    pub async fn acquire_list_permit(&self, user_id: i32) -> Option<ListPermit> {
        let of_user = {
            let mut of_users = self.open_lists_of_users.lock().unwrap_or_else(PoisonError::into_inner);
            of_users.entry(user_id).or_insert_with(|| Arc::new(Semaphore::new(OPEN_LISTS_OF_USER_MAX))).clone()
        };
        let of_user = of_user.acquire_owned().await.ok()?;
        let open_list = self.open_lists.clone().acquire_owned().await.ok()?;
        let first_page = self.list_pages.clone().acquire_owned().await.ok()?;
        Some(ListPermit {
            _open_list: (of_user, open_list),
            pages: self.list_pages.clone(),
            first_page: Some(first_page),
        })
    }

    /// Waits for the lock of bulk creations of cards.
    pub async fn lock_bulk_create(&self) -> OwnedMutexGuard<()> {
        self.bulk_create.clone().lock_owned().await
    }
}

/// Locks by key. Keys do not share locks: a slow request must not delay requests with other keys.
#[derive(Debug)]
pub struct KeyedLocks<K>(Arc<LockMap<K>>);
/// The keys that requests hold or wait for, each with its lock.
type LockMap<K> = std::sync::Mutex<HashMap<K, Arc<Mutex<()>>>>;

impl<K> Default for KeyedLocks<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

/// The permit of an open list.
#[derive(Debug)]
pub struct ListPermit {
    _open_list: (OwnedSemaphorePermit, OwnedSemaphorePermit),
    pages: Arc<Semaphore>,
    first_page: Option<OwnedSemaphorePermit>,
}

impl ListPermit {
    /// Waits until a page may be read. The wait has no time limit, because the reply has begun. It is short, because
    /// other lists also hold a permit for one page only.
    pub async fn acquire_page(&mut self) -> Option<OwnedSemaphorePermit> {
        match self.first_page.take() {
            Some(permit) => Some(permit),
            None => self.pages.clone().acquire_owned().await.ok(),
        }
    }
}

impl<K: Clone + Eq + Hash> KeyedLocks<K> {
    /// Waits for the lock of a key.
    pub async fn lock(&self, key: K) -> KeyedLock<K> {
        let lock = lock_map(&self.0).entry(key.clone()).or_default().clone();
        // Created before the wait, so that a cancelled wait also removes an unused lock from the map.
        let mut keyed_lock = KeyedLock { locks: self.0.clone(), key, guard: None };
        keyed_lock.guard = Some(lock.lock_owned().await);
        keyed_lock
    }
}

/// The lock of a key, or a position in the queue for it. Dropping it releases the lock.
#[derive(Debug)]
pub struct KeyedLock<K: Eq + Hash> {
    locks: Arc<LockMap<K>>,
    key: K,
    guard: Option<OwnedMutexGuard<()>>,
}

impl<K: Eq + Hash> Drop for KeyedLock<K> {
    fn drop(&mut self) {
        let mut locks = lock_map(&self.locks);
        // The guard is dropped while the map is locked: if only the map still has a reference, no other request uses
        // the lock.
        self.guard = None;
        if locks.get(&self.key).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            locks.remove(&self.key);
        }
    }
}

fn lock_map<K>(locks: &LockMap<K>) -> std::sync::MutexGuard<'_, HashMap<K, Arc<Mutex<()>>>> {
    locks.lock().unwrap_or_else(PoisonError::into_inner)
}
