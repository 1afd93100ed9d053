//! Taking turns within one server.

use std::hash::{DefaultHasher, Hash, Hasher};

use tokio::sync::{Mutex, MutexGuard};

const LANES: usize = 256;

/// Requests for the same thing queue here before they take a database connection, or those that wait for one lock would
/// hold all connections. Between servers the database's own locks decide.
#[derive(Debug)]
pub struct Turns {
    callerids: [Mutex<()>; LANES],
    card_makers: Mutex<()>,
}

impl Default for Turns {
    fn default() -> Self {
        Self { callerids: std::array::from_fn(|_| Mutex::default()), card_makers: Mutex::default() }
    }
}

impl Turns {
    /// Waits until nobody else is at the caller id. Different ones share a lane now and then, which does no harm.
    pub async fn of_callerid(&self, callerid: &str) -> MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        callerid.hash(&mut hasher);
        let lane = usize::try_from(hasher.finish() % 256).unwrap_or(0);
        self.callerids[lane].lock().await
    }

    /// Waits until nobody else makes cards by the thousand.
    pub async fn of_card_makers(&self) -> MutexGuard<'_, ()> {
        self.card_makers.lock().await
    }
}
