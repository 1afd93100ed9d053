//! Load limits: how many requests run at the same time, and how much memory their bodies use. Load beyond a limit is
//! refused at once, so that memory is bounded and accepted requests are processed at full speed.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use ipnet::IpNet;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::error::ApiError;
use crate::http::client_addr::client_network;

/// Bytes of each body that are not counted: the connection's receive buffer uses as much anyway, and usual forms are
/// smaller.
const UNCOUNTED_BODY_BYTES: usize = 16 * 1024;

/// Limits the requests that run and the memory of their bodies in this server.
#[derive(Debug)]
pub struct LoadLimiter {
    requests_max: usize,
    body_bytes_max: usize,
    in_flight: Arc<AtomicUsize>,
    /// One permit is one byte.
    body_budget: Arc<Semaphore>,
    imports: Arc<Semaphore>,
    unadmitted_uploads: Arc<Semaphore>,
    log_throttle: LogThrottle,
}

impl LoadLimiter {
    /// Allows `requests_max` requests, whose bodies use at most `body_bytes_max` in total, `imports_max` imports, and
    /// as many large bodies of requests that are not admitted yet.
    pub fn new(requests_max: usize, body_bytes_max: usize, imports_max: usize) -> Self {
        Self {
            requests_max,
            body_bytes_max,
            in_flight: Arc::default(),
            body_budget: Arc::new(Semaphore::new(body_bytes_max)),
            imports: Arc::new(Semaphore::new(imports_max)),
            unadmitted_uploads: Arc::new(Semaphore::new(imports_max)),
            log_throttle: LogThrottle::default(),
        }
    }

    /// Returns a permit to run a request.
    ///
    /// # Errors
    ///
    /// [`ApiError::Overloaded`] if `max_requests` requests run already.
    pub fn acquire_request(&self) -> Result<RequestPermit, ApiError> {
        let increment = |in_flight| (in_flight < self.requests_max).then_some(in_flight + 1);
        match self.in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, increment) {
            Ok(_) => Ok(RequestPermit(self.in_flight.clone())),
            Err(_) => Err(self.refuse("max_requests")),
        }
    }

    /// Returns the number of requests that run.
    pub fn requests_in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Returns the memory reserved by large bodies, in bytes.
    pub fn body_bytes_held(&self) -> usize {
        self.body_bytes_max.saturating_sub(self.body_budget.available_permits())
    }

    /// Reserves memory for a body that grows from `before` to `after` bytes, and adds it to the body's `permit`.
    ///
    /// # Errors
    ///
    /// [`ApiError::Overloaded`] if `max_body_memory` is in use.
    pub fn reserve_body_bytes(
        &self,
        permit: &mut Option<OwnedSemaphorePermit>,
        before: usize,
        after: usize,
    ) -> Result<(), ApiError> {
        let growth = after.saturating_sub(before.max(UNCOUNTED_BODY_BYTES));
        if growth == 0 {
            return Ok(());
        }
        let growth = u32::try_from(growth).map_err(|_| ApiError::BodyTooLarge)?;
        let added = self.body_budget.clone().try_acquire_many_owned(growth);
        let added = added.map_err(|_| self.refuse("max_body_memory"))?;
        match permit {
            Some(permit) => permit.merge(added),
            None => *permit = Some(added),
        }
        Ok(())
    }

    /// Returns a permit to receive and carry out an import.
    ///
    /// # Errors
    ///
    /// [`ApiError::Overloaded`] if `import_concurrency` imports run already.
    pub fn acquire_import(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        self.imports.clone().try_acquire_owned().map_err(|_| self.refuse("import_concurrency"))
    }

    /// Returns a permit to receive a large body whose user is not known yet. There are as many as for imports, apart
    /// from them: clients without credentials that send slowly do not occupy the permits of imports.
    ///
    /// # Errors
    ///
    /// [`ApiError::Overloaded`] if `import_concurrency` such bodies are being received.
    pub fn acquire_unadmitted_upload(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        self.unadmitted_uploads.clone().try_acquire_owned().map_err(|_| self.refuse("import_concurrency"))
    }

    fn refuse(&self, setting: &'static str) -> ApiError {
        if self.log_throttle.should_log() {
            tracing::warn!(setting, "load limit reached, refusing requests");
        }
        ApiError::Overloaded
    }
}

/// The permit of a running request. Dropping it releases the permit.
#[derive(Debug)]
pub struct RequestPermit(Arc<AtomicUsize>);

impl Drop for RequestPermit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A bounded queue of requests, for work of which only a few may run at once. The [`RequestPermit`] of a request does
/// not count while the request waits, and the number of those that wait is limited, in total and for each client. So a
/// client that sends more of this work than is done delays no other work, and other clients still find a place.
#[derive(Debug)]
pub struct WaitQueue {
    /// Its name in the log and in the metrics.
    pub name: &'static str,
    places_max: usize,
    client_places_max: usize,
    waiting: Mutex<HashMap<IpNet, usize>>,
    log_throttle: LogThrottle,
}

impl WaitQueue {
    /// Allows `places_max` waiting requests, and `client_places_max` of one client.
    pub fn new(name: &'static str, places_max: usize, client_places_max: usize) -> Self {
        let (waiting, log_throttle) = (Mutex::default(), LogThrottle::default());
        Self { name, places_max, client_places_max, waiting, log_throttle }
    }

    /// Waits up to `max_wait` for `event` and returns its result; `None`: timeout.
    ///
    /// # Errors
    ///
    /// [`ApiError::Overloaded`] if it is not ready at once and the queue is full.
    pub async fn wait<T>(
        &self,
        load: &LoadLimiter,
        client: IpAddr,
        max_wait: Duration,
        event: impl Future<Output = T>,
    ) -> Result<Option<T>, ApiError> {
        let mut event = pin!(event);
        if let Some(result) = event.as_mut().now_or_never() {
            return Ok(Some(result));
        }
        let _place = self.enter(load, client)?;
        Ok(timeout(max_wait, event).await.ok())
    }

    /// Returns the number of requests that wait.
    pub fn waiting_count(&self) -> usize {
        self.lock_waiting().values().sum()
    }

    fn enter<'a>(&'a self, load: &'a LoadLimiter, client: IpAddr) -> Result<QueuePlace<'a>, ApiError> {
        let client_network = client_network(client);
        let mut waiting = self.lock_waiting();
        let client_waiting = waiting.get(&client_network).copied().unwrap_or(0);
        if client_waiting >= self.client_places_max || waiting.values().sum::<usize>() >= self.places_max {
            if self.log_throttle.should_log() {
                tracing::warn!(queue = self.name, %client, client_waiting, "waiting queue full, refusing requests");
            }
            return Err(ApiError::Overloaded);
        }
        waiting.insert(client_network, client_waiting + 1);
        load.in_flight.fetch_sub(1, Ordering::Relaxed);
        Ok(QueuePlace { queue: self, load, client_network })
    }

    fn lock_waiting(&self) -> MutexGuard<'_, HashMap<IpNet, usize>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of a request in a queue. Dropping it ends the wait.
#[derive(Debug)]
struct QueuePlace<'a> {
    queue: &'a WaitQueue,
    load: &'a LoadLimiter,
    client_network: IpNet,
}

impl Drop for QueuePlace<'_> {
    fn drop(&mut self) {
        // The request counts again, also above the limit: it was accepted already, and few wait.
        self.load.in_flight.fetch_add(1, Ordering::Relaxed);
        if let Entry::Occupied(mut count) = self.queue.lock_waiting().entry(self.client_network) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// Limits the log lines about refused requests: one line every 10 seconds for each subject (client, user, reason), and
/// [`SUBJECTS_MAX`](Self::SUBJECTS_MAX) lines in total, however many users a flood of requests names.
#[derive(Debug, Default)]
pub struct RefusalLog {
    hasher: RandomState,
    /// The subjects that were logged in the last 10 seconds, by their hash.
    logged: Mutex<HashMap<u64, Instant>>,
}

impl RefusalLog {
    /// Lines in 10 seconds.
    pub const SUBJECTS_MAX: usize = 64;

    /// Returns whether to log the subject now, and records that it is logged.
    pub fn should_log(&self, subject: impl Hash, now: Instant) -> bool {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        logged.retain(|_, logged_at| now.saturating_duration_since(*logged_at) <= LOG_INTERVAL);
        if logged.len() >= Self::SUBJECTS_MAX {
            return false;
        }
        match logged.entry(self.hasher.hash_one(subject)) {
            Entry::Occupied(_) => false,
            Entry::Vacant(entry) => {
                entry.insert(now);
                true
            }
        }
    }
}

/// How long a throttled log line is not repeated.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Limits a log message to one every 10 seconds, for events that can occur thousands of times a second under overload.
#[derive(Debug, Default)]
pub struct LogThrottle(Mutex<Option<Instant>>);

impl LogThrottle {
    /// Returns whether to log the message now, and records that it is logged.
    pub fn should_log(&self) -> bool {
        let mut last_logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = last_logged.is_none_or(|last_logged| last_logged.elapsed() > LOG_INTERVAL);
        if is_due {
            *last_logged = Some(Instant::now());
        }
        is_due
    }
}
