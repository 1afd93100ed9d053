//! The monitoring endpoints `/livez`, `/readyz` and `/metrics`.

mod metrics;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;

use self::metrics::{GroupStock, OutboxStats, SequenceUsage, SnapshotAge};
use crate::db::cached::Cached;
use crate::state::AppState;

/// The server, and the cached results of monitoring queries.
struct MonitoringState {
    state: Arc<AppState>,
    group_stock: Cached<Option<Vec<GroupStock>>>,
    outbox_stats: Cached<Option<OutboxStats>>,
    snapshot_age: Cached<Option<SnapshotAge>>,
    sequence_usage: Cached<Option<Vec<SequenceUsage>>>,
}

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
        group_stock: Cached::default(),
        outbox_stats: Cached::default(),
        snapshot_age: Cached::default(),
        sequence_usage: Cached::default(),
    })
}

async fn readyz(State(monitoring): State<Arc<MonitoringState>>) -> (StatusCode, String) {
    match monitoring.state.health.readiness().await {
        Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
    }
}
