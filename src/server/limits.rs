//! How much is taken on at once. What is beyond it is refused before it costs anything, so that memory stays bounded and what
//! has been let in is answered at full speed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::Fault;

/// How much of a body is free: every connection's buffer holds as much anyway, and the forms of honest clients are smaller.
const FREE: usize = 16 * 1024;

/// What may run and what may come in, in this server.
#[derive(Debug)]
pub struct Load {
    most: usize,
    most_bytes: usize,
    running: AtomicUsize,
    /// In bytes.
    bodies: Arc<Semaphore>,
    refused: Seldom,
}

impl Load {
    /// At most so many requests, with bodies of so many bytes together.
    pub fn new(requests: usize, bodies: usize) -> Self {
        Self {
            most: requests,
            most_bytes: bodies,
            running: AtomicUsize::new(0),
            bodies: Arc::new(Semaphore::new(bodies)),
            refused: Seldom::default(),
        }
    }

    /// A request may run.
    pub fn request(&self) -> Result<Running<'_>, Fault> {
        let one_more = |running| (running < self.most).then_some(running + 1);
        match self.running.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more) {
            Ok(_) => Ok(Running(&self.running)),
            Err(_) => Err(self.refuse("max_requests")),
        }
    }

    /// How many do.
    pub fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    /// How much memory large bodies hold, in bytes.
    pub fn bytes(&self) -> usize {
        self.most_bytes.saturating_sub(self.bodies.available_permits())
    }

    /// A body may grow from `before` to `after` bytes; `held` is what it has been granted.
    pub fn body(&self, held: &mut Option<OwnedSemaphorePermit>, before: usize, after: usize) -> Result<(), Fault> {
        let more = after.saturating_sub(before.max(FREE));
        if more == 0 {
            return Ok(());
        }
        let more = u32::try_from(more).map_err(|_| Fault::BodyTooLarge)?;
        let granted = self.bodies.clone().try_acquire_many_owned(more);
        let granted = granted.map_err(|_| self.refuse("max_body_memory"))?;
        match held {
            Some(held) => held.merge(granted),
            None => *held = Some(granted),
        }
        Ok(())
    }

    fn refuse(&self, limit: &'static str) -> Fault {
        if self.refused.again() {
            tracing::warn!(limit, "requests are refused: too many at once");
        }
        Fault::Busy
    }
}

/// A request that runs, until it is dropped.
#[derive(Debug)]
pub struct Running<'a>(&'a AtomicUsize);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// For what would be said a thousand times a second just when there is no time for it.
#[derive(Debug, Default)]
pub struct Seldom(Mutex<Option<Instant>>);

impl Seldom {
    /// Whether it hasn't been said for a while.
    pub fn again(&self) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let again = last.is_none_or(|last| last.elapsed() > Duration::from_secs(10));
        if again {
            *last = Some(Instant::now());
        }
        again
    }
}
