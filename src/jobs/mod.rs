//! What runs beside the answering of requests.

pub mod stock_vacuum;

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;

use crate::idempotency;
use crate::state::AppState;

/// Runs the background tasks until the future is dropped.
pub async fn run_background_tasks(state: &AppState) {
    tokio::join!(
        restart_on_panic("listening for changes", || state.accounts.listen()),
        restart_on_panic("sweeping the stock", || state.stock_vacuum.run(&state.background_pool)),
        restart_on_panic("forgetting idempotency keys", || purge_idempotency_keys(state)),
        restart_on_panic("sending e-mails", || state.mail.run(&state.background_pool, &state.accounts))
    );
}

async fn purge_idempotency_keys(state: &AppState) {
    loop {
        idempotency::purge_expired(&state.background_pool, state.config.idempotency_hours.get()).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
}

/// Runs something to its end; what panics is begun again, and takes nothing else along.
async fn restart_on_panic<R: Future<Output = ()>>(what: &str, run: impl Fn() -> R) {
    while AssertUnwindSafe(run()).catch_unwind().await.is_err() {
        tracing::error!("{what} was broken off by a panic, and begins again");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
