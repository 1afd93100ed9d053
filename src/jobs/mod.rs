//! What runs beside the answering of requests.

pub mod stock_vacuum;

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;

use crate::idempotency;
use crate::state::App;

/// Runs the background tasks until the future is dropped.
pub async fn run_beside(app: &App) {
    tokio::join!(
        again("listening for changes", || app.directory.listen()),
        again("sweeping the stock", || app.sweeper.sweep(&app.errands)),
        again("forgetting idempotency keys", || forget_keys(app)),
        again("sending e-mails", || app.mail.run(&app.errands, &app.directory))
    );
}

async fn forget_keys(app: &App) {
    loop {
        idempotency::forget(&app.errands, app.config.idempotency_hours.get()).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
}

/// Runs something to its end; what panics is begun again, and takes nothing else along.
async fn again<R: Future<Output = ()>>(what: &str, run: impl Fn() -> R) {
    while AssertUnwindSafe(run()).catch_unwind().await.is_err() {
        tracing::error!("{what} was broken off by a panic, and begins again");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
