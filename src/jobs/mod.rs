//! Background tasks.

pub mod stock_vacuum;

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;

use crate::console::session;
use crate::state::AppState;
use crate::{audit, idempotency};

/// Runs the background tasks until the future is dropped.
pub async fn run_background_tasks(state: &AppState) {
    tokio::join!(
        restart_on_panic("change listener", || state.accounts.listen()),
        restart_on_panic("stock vacuum", || state.stock_vacuum.run(&state.background_pool)),
        restart_on_panic("idempotency key expiry", || purge_idempotency_keys(state)),
        restart_on_panic("audit row expiry", || purge_audit_rows(state)),
        restart_on_panic("console session expiry", || purge_console_sessions(state)),
        restart_on_panic("e-mail delivery", || state.mail.run(&state.mail_pool, &state.accounts))
    );
}

async fn purge_idempotency_keys(state: &AppState) {
    loop {
        idempotency::purge_expired(&state.background_pool, state.config.idempotency_hours.get()).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
}

/// Deletes old audit rows of refused requests, once a minute. Does nothing if `audit_retention_days` is 0.
async fn purge_audit_rows(state: &AppState) {
    let days = state.config.audit_retention_days;
    if days == 0 {
        return;
    }
    loop {
        if let Err(error) = audit::purge_refusals(&state.background_pool, days).await {
            tracing::debug!(%error, "audit row purge failed");
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
}

/// Deletes ended sessions and old forms of the console, once an hour: also if no one logs in.
async fn purge_console_sessions(state: &AppState) {
    loop {
        let purge = async { session::delete_ended(&mut *state.background_pool.acquire().await?).await };
        if let Err(error) = purge.await {
            tracing::debug!(%error, "console session purge failed");
        }
        tokio::time::sleep(Duration::from_hours(1)).await;
    }
}

/// Runs a task to its end, and starts it again if it panics. A panic does not affect the other tasks.
async fn restart_on_panic<R: Future<Output = ()>>(task: &str, run: impl Fn() -> R) {
    while AssertUnwindSafe(run()).catch_unwind().await.is_err() {
        tracing::error!(task, "background task panicked, restarting");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
