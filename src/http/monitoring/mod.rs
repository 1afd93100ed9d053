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

use self::cached::Cached;
use self::metrics::{GroupStock, OutboxStats};
use crate::state::AppState;

/// However many ask, the database is asked no more often.
const READINESS_TTL: Duration = Duration::from_secs(1);
/// Within this time the database has answered, or nobody would want to wait for it.
const QUERY_TIMEOUT: Duration = Duration::from_secs(2);

/// The server, and what was seen of it lately.
struct MonitoringState {
    state: Arc<AppState>,
    readiness: Cached<Readiness>,
    group_stock: Cached<Option<Vec<GroupStock>>>,
    outbox_stats: Cached<Option<OutboxStats>>,
}

type Readiness = Result<(), &'static str>;

/// What anybody may ask: `/livez`, whether the process answers, and `/readyz`, whether it can sell.
pub fn health_router(state: Arc<AppState>) -> Router {
    health_routes().with_state(monitoring_state(state))
}

/// The same and `/metrics`, for a listener that only those reach who watch.
pub fn router(state: Arc<AppState>) -> Router {
    health_routes().route("/metrics", get(metrics::get_metrics)).with_state(monitoring_state(state))
}

fn health_routes() -> Router<Arc<MonitoringState>> {
    Router::new().route("/livez", get(|| async { "ok\n" })).route("/readyz", get(readyz))
}

fn monitoring_state(state: Arc<AppState>) -> Arc<MonitoringState> {
    Arc::new(MonitoringState {
        state,
        readiness: Cached::default(),
        group_stock: Cached::default(),
        outbox_stats: Cached::default(),
    })
}

async fn readyz(State(watch): State<Arc<MonitoringState>>) -> (StatusCode, String) {
    let errands = watch.state.background_pool.clone();
    let ready = watch
        .readiness
        .get_or_refresh(async move { (check_database_writable(&errands).await, Instant::now() + READINESS_TTL) })
        .await;
    match ready.unwrap_or(Err("the database doesn't answer")) {
        Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
    }
}

/// Whether the database takes a write, down to the disk: a message into its log that no table keeps.
async fn check_database_writable(database: &PgPool) -> Readiness {
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
