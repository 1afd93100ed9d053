//! Finds the user that a request names. A name that is not in memory needs a query, and clients can invent any number
//! of names. So the names that no user had yet share a small number of queries.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::accounts::{AccountCache, User};
use crate::error::ApiError;
use crate::locks::KeyedSemaphores;
use crate::server::limits::{LoadLimiter, WaitQueue};

/// Maximum number of concurrent queries for names that no user had yet.
const CONCURRENT_QUERIES_MAX: usize = 2;
/// How long an unknown name occupies one of these queries: at most 200 such queries a second are run.
const UNKNOWN_NAME_PAUSE: Duration = Duration::from_millis(10);
/// Maximum number of remembered names. At the limit all of them are removed.
const REMEMBERED_NAMES_MAX: usize = 10_000;
/// Maximum number of requests that wait for such a query, in total and for one client.
const WAITING_MAX: usize = 64;
const WAITING_PER_CLIENT_MAX: usize = 16;
/// Maximum number of requests that wait for the query of the same name, in total and for one client.
const SHARING_MAX: usize = 1024;
const SHARING_PER_CLIENT_MAX: usize = 256;

/// Finds users by name, and limits the queries for unknown names.
#[derive(Debug)]
pub struct UserLookup {
    /// Maximum time that a request waits in each of the queues.
    max_wait: Duration,
    /// Names, as clients spell them but without trailing spaces, that the database has found. They only decide which
    /// queries are limited: whether the user still exists is decided by the account cache or a query.
    found_names: Mutex<HashSet<String>>,
    turns: Arc<Semaphore>,
    /// The requests that wait for a query.
    pub queue: WaitQueue,
    /// Requests with the same name share one query.
    shared_queries: KeyedSemaphores<String>,
    /// The requests that wait for a query that another request started.
    pub sharing_queue: WaitQueue,
}

impl UserLookup {
    /// A request waits up to `max_wait` for the query of another one, and up to `max_wait` for its own.
    pub fn new(max_wait: Duration) -> Self {
        Self {
            max_wait,
            found_names: Mutex::default(),
            turns: Arc::new(Semaphore::new(CONCURRENT_QUERIES_MAX)),
            queue: WaitQueue::new("unknown_users", WAITING_MAX, WAITING_PER_CLIENT_MAX),
            shared_queries: KeyedSemaphores::new(1),
            sharing_queue: WaitQueue::new("same_users", SHARING_MAX, SHARING_PER_CLIENT_MAX),
        }
    }

    /// Returns the user with this name: see [`AccountCache::user`].
    ///
    /// # Errors
    ///
    /// [`ApiError::Overloaded`] if too many requests wait for a query, [`ApiError::Unavailable`] if it does not start
    /// in time.
    pub async fn find(
        &self,
        accounts: &AccountCache,
        load: &LoadLimiter,
        client: IpAddr,
        name: &str,
    ) -> Result<Option<Arc<User>>, ApiError> {
        let name = name.trim_end_matches(' ');
        if let Ok(user) = accounts.cached_user(name) {
            return Ok(user);
        }
        // Boxed: the futures are large and rarely needed.
        if self.is_found_name(name) {
            return Box::pin(self.find_again(accounts, name)).await;
        }
        Box::pin(self.find_first(accounts, load, client, name)).await
    }

    /// Finds the user by a name that was found before.
    async fn find_again(&self, accounts: &AccountCache, name: &str) -> Result<Option<Arc<User>>, ApiError> {
        let user = accounts.user(name).await?;
        if user.is_none() {
            self.lock_names().remove(name);
        }
        Ok(user)
    }

    async fn find_first(
        &self,
        accounts: &AccountCache,
        load: &LoadLimiter,
        client: IpAddr,
        name: &str,
    ) -> Result<Option<Arc<User>>, ApiError> {
        let shared = self.shared_queries.acquire(name.to_owned());
        let shared = self.sharing_queue.wait(load, client, self.max_wait, shared).await?;
        let shared = shared.ok_or(ApiError::Unavailable)?;
        // Another request may have found the name meanwhile.
        if let Ok(user) = accounts.cached_user(name) {
            return Ok(user);
        }
        if self.is_found_name(name) {
            drop(shared);
            return self.find_again(accounts, name).await;
        }
        let turn = self.queue.wait(load, client, self.max_wait, self.turns.clone().acquire_owned()).await?;
        let turn = Turn(Some(turn.and_then(Result::ok).ok_or(ApiError::Unavailable)?));
        let user = accounts.user(name).await?;
        if user.is_some() {
            turn.end();
            let mut names = self.lock_names();
            if names.len() >= REMEMBERED_NAMES_MAX {
                names.clear();
            }
            names.insert(name.to_owned());
        }
        Ok(user)
    }

    fn is_found_name(&self, name: &str) -> bool {
        self.lock_names().contains(name)
    }

    fn lock_names(&self) -> MutexGuard<'_, HashSet<String>> {
        self.found_names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to run a query. Unless [`end`](Self::end) is called, it ends with a delay: after an unknown name, and
/// after a client that has disconnected.
struct Turn(Option<OwnedSemaphorePermit>);

impl Turn {
    fn end(mut self) {
        self.0 = None;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let (Some(permit), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(async move {
                tokio::time::sleep(UNKNOWN_NAME_PAUSE).await;
                drop(permit);
            });
        }
    }
}
