//! Load limits: how many requests run at the same time, and how much memory their bodies use. Load beyond a limit is
//! refused at once, so that memory is bounded and accepted requests are processed at full speed.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::ApiError;

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
    log_throttle: LogThrottle,
}

impl LoadLimiter {
    /// Allows `requests_max` requests, whose bodies use at most `body_bytes_max` in total.
    pub fn new(requests_max: usize, body_bytes_max: usize) -> Self {
        Self {
            requests_max,
            body_bytes_max,
            in_flight: Arc::default(),
            body_budget: Arc::new(Semaphore::new(body_bytes_max)),
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
