//! The monitoring endpoints `/livez`, `/readyz` and `/metrics`.

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
use self::metrics::{GroupStock, OutboxStats, SequenceUsage, SnapshotAge};
use crate::state::AppState;

/// How long a readiness result is reused: limits the queries of `/readyz`, however often it is requested.
const READINESS_TTL: Duration = Duration::from_secs(1);
/// How long a monitoring request waits for the database.
const QUERY_TIMEOUT: Duration = Duration::from_secs(2);

/// The server, and the cached results of monitoring queries.
struct MonitoringState {
    state: Arc<AppState>,
    readiness: Cached<Readiness>,
    group_stock: Cached<Option<Vec<GroupStock>>>,
    outbox_stats: Cached<Option<OutboxStats>>,
    snapshot_age: Cached<Option<SnapshotAge>>,
    sequence_usage: Cached<Option<Vec<SequenceUsage>>>,
}

type Readiness = Result<(), &'static str>;

/// Returns the routes for the main listener: `/livez` (the process answers) and `/readyz` (the database accepts
/// writes).
pub fn health_router(state: Arc<AppState>) -> Router {
    health_routes().with_state(monitoring_state(state))
}

/// Returns the routes for the listener `metrics_listen`, which only the monitoring system should reach: also
/// `/metrics`.
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
        snapshot_age: Cached::default(),
        sequence_usage: Cached::default(),
    })
}

async fn readyz(State(monitoring): State<Arc<MonitoringState>>) -> (StatusCode, String) {
    let pool = monitoring.state.background_pool.clone();
    let readiness = monitoring
        .readiness
        .get_or_refresh(async move { (check_database_writable(&pool).await, Instant::now() + READINESS_TTL) })
        .await;
    match readiness.unwrap_or(Err("the database does not answer")) {
        Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
    }
}

/// Checks that the database accepts a write and flushes it to disk: emits a transactional WAL message, which changes no
/// table.
async fn check_database_writable(pool: &PgPool) -> Readiness {
    let is_read_only = sqlx::query_scalar!(
        r#"select case when pg_is_in_recovery() or current_setting('transaction_read_only')::boolean then true
               else pg_logical_emit_message(true, 'mortise', '') is null end as "is_read_only!""#
    );
    match is_read_only.fetch_one(pool).await {
        Ok(false) => Ok(()),
        Ok(true) => Err("the database is read-only"),
        Err(error) => {
            tracing::warn!(%error, "readiness check failed");
            Err("the database is unreachable or cannot write")
        }
    }
}
