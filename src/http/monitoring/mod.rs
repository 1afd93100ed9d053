//! For whoever watches the server: whether it is there, whether it can do its work, and what it has been doing.

mod cached;
mod metrics;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use sqlx::PgPool;

use self::cached::Lately;
use self::metrics::{CardsLeft, Mails};
use crate::state::App;

/// However many ask, the database is asked no more often.
const READY_FOR: Duration = Duration::from_secs(1);
/// Within this time the database has answered, or nobody would want to wait for it.
const PATIENCE: Duration = Duration::from_secs(2);

/// The server, and what was seen of it lately.
struct Watch {
    app: Arc<App>,
    ready: Lately<Ready>,
    cards_left: Lately<Option<Vec<CardsLeft>>>,
    mails: Lately<Option<Mails>>,
}

type Ready = Result<(), &'static str>;

/// What anybody may ask: `/livez`, whether the process answers, and `/readyz`, whether it can sell.
pub fn health(app: Arc<App>) -> Router {
    questions().with_state(watch(app))
}

/// The same and `/metrics`, for a listener that only those reach who watch.
pub fn router(app: Arc<App>) -> Router {
    questions().route("/metrics", get(metrics::page)).with_state(watch(app))
}

fn questions() -> Router<Arc<Watch>> {
    Router::new().route("/livez", get(|| async { "ok\n" })).route("/readyz", get(readyz))
}

fn watch(app: Arc<App>) -> Arc<Watch> {
    Arc::new(Watch { app, ready: Lately::default(), cards_left: Lately::default(), mails: Lately::default() })
}

async fn readyz(State(watch): State<Arc<Watch>>) -> (StatusCode, String) {
    let errands = watch.app.errands.clone();
    let ready = watch.ready.answer(async move { (is_ready(&errands).await, Instant::now() + READY_FOR) }).await;
    match ready.unwrap_or(Err("the database doesn't answer")) {
        Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
    }
}

/// Whether the database takes a write, down to the disk: a message into its log that no table keeps.
async fn is_ready(database: &PgPool) -> Ready {
    let is_read_only = sqlx::query_scalar!(
        r#"select case when pg_is_in_recovery() or current_setting('transaction_read_only')::boolean then true
               else pg_logical_emit_message(true, 'mortise', '') is null end as "is_read_only!""#
    );
    match is_read_only.fetch_one(database).await {
        Ok(false) => Ok(()),
        Ok(true) => Err("the database is read-only"),
        Err(error) => {
            tracing::warn!(%error, "not ready");
            Err("the database can't be reached, or can't write")
        }
    }
}
