//! Taking turns within one server.

use std::hash::{DefaultHasher, Hash, Hasher};

use tokio::sync::{Mutex, MutexGuard};

const LANES: usize = 256;

/// Requests for the same thing queue here before they take a database connection, or those that wait for one lock would
/// hold all connections. Between servers the database's own locks decide.
#[derive(Debug)]
pub struct Turns([Mutex<()>; LANES]);

impl Default for Turns {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::default()))
    }
}

impl Turns {
    /// Waits until nobody else is at it. Different things share a lane now and then, which does no harm.
    pub async fn of(&self, thing: &str) -> MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        thing.hash(&mut hasher);
        let lane = usize::try_from(hasher.finish() % 256).unwrap_or(0);
        self.0[lane].lock().await
    }
}
