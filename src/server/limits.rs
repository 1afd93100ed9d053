//! How much is taken on at once. What is beyond it is refused before it costs anything, so that memory stays bounded and what
//! has been let in is answered at full speed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::ApiError;

/// How much of a body is free: every connection's buffer holds as much anyway, and the forms of honest clients are smaller.
const UNCOUNTED_BODY_BYTES: usize = 16 * 1024;

/// What may run and what may come in, in this server.
#[derive(Debug)]
pub struct LoadLimiter {
    requests_max: usize,
    body_bytes_max: usize,
    in_flight: AtomicUsize,
    /// In bytes.
    body_budget: Arc<Semaphore>,
    log_throttle: LogThrottle,
}

impl LoadLimiter {
    /// At most so many requests, with bodies of so many bytes together.
    pub fn new(requests: usize, bodies: usize) -> Self {
        Self {
            requests_max: requests,
            body_bytes_max: bodies,
            in_flight: AtomicUsize::new(0),
            body_budget: Arc::new(Semaphore::new(bodies)),
            log_throttle: LogThrottle::default(),
        }
    }

    /// A request may run.
    pub fn acquire_request(&self) -> Result<RequestPermit<'_>, ApiError> {
        let one_more = |running| (running < self.requests_max).then_some(running + 1);
        match self.in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more) {
            Ok(_) => Ok(RequestPermit(&self.in_flight)),
            Err(_) => Err(self.refuse("max_requests")),
        }
    }

    /// How many do.
    pub fn requests_in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// How much memory large bodies hold, in bytes.
    pub fn body_bytes_held(&self) -> usize {
        self.body_bytes_max.saturating_sub(self.body_budget.available_permits())
    }

    /// A body may grow from `before` to `after` bytes; `held` is what it has been granted.
    pub fn reserve_body_bytes(
        &self,
        held: &mut Option<OwnedSemaphorePermit>,
        before: usize,
        after: usize,
    ) -> Result<(), ApiError> {
        let more = after.saturating_sub(before.max(UNCOUNTED_BODY_BYTES));
        if more == 0 {
            return Ok(());
        }
        let more = u32::try_from(more).map_err(|_| ApiError::BodyTooLarge)?;
        let granted = self.body_budget.clone().try_acquire_many_owned(more);
        let granted = granted.map_err(|_| self.refuse("max_body_memory"))?;
        match held {
            Some(held) => held.merge(granted),
            None => *held = Some(granted),
        }
        Ok(())
    }

    fn refuse(&self, limit: &'static str) -> ApiError {
        if self.log_throttle.should_log() {
            tracing::warn!(limit, "requests are refused: too many at once");
        }
        ApiError::Overloaded
    }
}

/// A request that runs, until it is dropped.
#[derive(Debug)]
pub struct RequestPermit<'a>(&'a AtomicUsize);

impl Drop for RequestPermit<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// For what would be said a thousand times a second just when there is no time for it.
#[derive(Debug, Default)]
pub struct LogThrottle(Mutex<Option<Instant>>);

impl LogThrottle {
    /// Whether it hasn't been said for a while.
    pub fn should_log(&self) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let again = last.is_none_or(|last| last.elapsed() > Duration::from_secs(10));
        if again {
            *last = Some(Instant::now());
        }
        again
    }
}
