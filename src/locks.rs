//! Locks within one server.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many lists may be open at the same time. A list whose client reads slowly holds no connection, but up to two
/// pages in memory.
const OPEN_LISTS_MAX: usize = 16;
/// How many of them one user may have open: slow clients of one user leave the others to the other users.
const OPEN_LISTS_OF_USER_MAX: usize = 8;

/// Locks that requests take before a database connection. Without them, requests that wait for the same database lock
/// could hold all connections. Between servers, only the locks of the database apply.
#[derive(Debug)]
pub struct Locks {
    /// Requests with the same caller id run one at a time.
    pub callerids: KeyedSemaphores<String>,
    /// Requests with the same idempotency key run one at a time.
    pub keys: KeyedSemaphores<KeyLockId>,
    /// Bulk creations of cards run one at a time.
    pub bulk_create: Arc<tokio::sync::Mutex<()>>,
    open_lists: Arc<Semaphore>,
    /// By the user's id.
    open_lists_of_users: KeyedSemaphores<i32>,
    list_pages: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    /// By the user's id. One user may have half of `streams`.
    streams_of_users: KeyedSemaphores<i32>,
}

/// An idempotency key: the user's id, the operation, and the key as the client sent it.
pub type KeyLockId = (i32, &'static str, String);

impl Locks {
    /// Creates the locks. Lists that are read in pages may use a fourth of the connections: a search through all cards
    /// takes long. So may lists that are streamed by one statement: a slow client delays its end.
    pub fn new(connections: u32) -> Self {
        let list_pages = usize::try_from(connections.div_ceil(4)).unwrap_or(1);
        Self {
            callerids: KeyedSemaphores::new(1),
            keys: KeyedSemaphores::new(1),
            bulk_create: Arc::default(),
            open_lists: Arc::new(Semaphore::new(OPEN_LISTS_MAX)),
            open_lists_of_users: KeyedSemaphores::new(OPEN_LISTS_OF_USER_MAX),
            list_pages: Arc::new(Semaphore::new(list_pages)),
            streams: Arc::new(Semaphore::new(list_pages)),
            streams_of_users: KeyedSemaphores::new(list_pages.div_ceil(2)),
        }
    }

    /// Waits until another list of the user may be open and its first page may be read. The permit must be held until
    /// the list is complete.
    pub async fn acquire_list_permit(&self, user_id: i32) -> Option<ListPermit> {
        let of_user = self.open_lists_of_users.acquire(user_id).await;
        let open_list = self.open_lists.clone().acquire_owned().await.ok()?;
        let first_page = self.list_pages.clone().acquire_owned().await.ok()?;
        Some(ListPermit {
            _open_list: (of_user, open_list),
            pages: self.list_pages.clone(),
            first_page: Some(first_page),
        })
    }

    /// Waits until another list of the user may be streamed by one statement. The permit must be held until the
    /// statement has ended.
    pub async fn acquire_stream_permit(&self, user_id: i32) -> Option<StreamPermit> {
        let of_user = self.streams_of_users.acquire(user_id).await;
        Some(StreamPermit { _permits: (of_user, self.streams.clone().acquire_owned().await.ok()?) })
    }
}

/// The permit of a list that one statement streams.
#[derive(Debug)]
pub struct StreamPermit {
    _permits: (OwnedSemaphorePermit, OwnedSemaphorePermit),
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

/// A semaphore for each key. Keys do not share one: a slow request must not delay requests with other keys.
#[derive(Debug)]
pub struct KeyedSemaphores<K> {
    permits: usize,
    /// A permit, and a request that waits for one, keep the semaphore of their key alive.
    by_key: Mutex<HashMap<K, Weak<Semaphore>>>,
}

impl<K: Eq + Hash> KeyedSemaphores<K> {
    /// Each key has this many permits.
    pub fn new(permits: usize) -> Self {
        Self { permits, by_key: Mutex::default() }
    }

    /// Waits for a permit of the key. The requests that wait get theirs in the order in which they came.
    pub async fn acquire(&self, key: K) -> OwnedSemaphorePermit {
        let semaphore = {
            let mut by_key = self.by_key.lock().unwrap_or_else(PoisonError::into_inner);
            // Unused semaphores are removed when the map would grow.
            if by_key.len() == by_key.capacity() {
                by_key.retain(|_, semaphore| semaphore.strong_count() > 0);
            }
            let entry = by_key.entry(key).or_default();
            entry.upgrade().unwrap_or_else(|| {
                let semaphore = Arc::new(Semaphore::new(self.permits));
                *entry = Arc::downgrade(&semaphore);
                semaphore
            })
        };
        semaphore.acquire_owned().await.unwrap_or_else(|_| unreachable!("these semaphores are never closed"))
    }
}
