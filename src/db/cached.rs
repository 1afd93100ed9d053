//! Results of database queries that are reused for a limited time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio::time::timeout;

/// How long a caller waits for the database.
const QUERY_TIMEOUT: Duration = Duration::from_secs(2);

/// The last result of a query, and the time until which it is valid.
#[derive(Debug)]
pub struct Cached<T>(Arc<Mutex<Option<(T, Instant)>>>);

impl<T> Default for Cached<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: Clone + Send + 'static> Cached<T> {
    /// Returns the cached result, or runs `query`, which returns a new result and its expiry. `None`: no result within
    /// `QUERY_TIMEOUT`.
    ///
    /// The query runs in its own task and continues after the timeout, or when the client disconnects. Otherwise each
    /// client that disconnects early would start a slow query again.
    pub async fn get_or_refresh(&self, query: impl Future<Output = (T, Instant)> + Send + 'static) -> Option<T> {
        let cached = self.0.clone();
        let result = async move {
            let mut cached = cached.lock_owned().await;
            match &*cached {
                Some((result, expiry)) if Instant::now() < *expiry => Some(result.clone()),
                _ => tokio::spawn(async move { cached.insert(query.await).0.clone() }).await.ok(),
            }
        };
        timeout(QUERY_TIMEOUT, result).await.ok().flatten()
    }
}
