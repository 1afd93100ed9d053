//! Answers of the database that are good for a while, however many ask.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Mutex;
use tokio::time::timeout;

use super::QUERY_TIMEOUT;

/// What was answered lately, and until when it is good. The asking goes on when whoever began it has gone: else everybody who comes and goes
/// would begin it anew.
#[derive(Debug)]
pub(super) struct Cached<T>(Arc<Mutex<Option<(T, Instant)>>>);

impl<T> Default for Cached<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: Clone + Send + 'static> Cached<T> {
    /// The answer, if there is one within a time that somebody would want to wait for. `ask` says until when it is good.
    pub async fn get_or_refresh(&self, ask: impl Future<Output = (T, Instant)> + Send + 'static) -> Option<T> {
        let known = self.0.clone();
        let answer = async move {
            let mut known = known.lock_owned().await;
            match &*known {
                Some((answer, until)) if Instant::now() < *until => Some(answer.clone()),
                _ => tokio::spawn(async move { known.insert(ask.await).0.clone() }).await.ok(),
            }
        };
        timeout(QUERY_TIMEOUT, answer).await.ok().flatten()
    }
}
