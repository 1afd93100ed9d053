//! `/metrics`, as Prometheus reads it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use sqlx::PgPool;

use super::MonitoringState;
use crate::state::AppState;

const OPENMETRICS_CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Counting what is left costs the database something.
const COUNTS_TTL: Duration = Duration::from_mins(1);
/// And so does asking one that is in trouble.
const FAILED_QUERY_TTL: Duration = Duration::from_secs(10);
/// More are more than a dashboard shows.
const GROUPS_MAX: i64 = 10_000;
/// A group that has more is in no danger, and isn't counted any further.
const CARDS_COUNTED_MAX: i64 = 10_000;

/// How many cards a group can still sell.
#[derive(Debug, Clone)]
pub struct GroupStock {
    id: i32,
    name: String,
    cards: i64,
}

/// What is in the outbox, on whichever server it came in.
#[derive(Debug, Clone)]
pub struct OutboxStats {
    waiting: i64,
    /// In seconds.
    oldest_age_seconds: i64,
    failed: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GroupLabels {
    cardgroup_id: i32,
    name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

/// Everything, as it is now.
pub async fn get_metrics(State(watch): State<Arc<MonitoringState>>) -> Response {
    let mut registry = Registry::with_prefix("mortise");
    register_counters(&watch.state, &mut registry);
    register_gauges(&watch.state, &mut registry);
    register_database(&watch, &mut registry).await;
    let mut page = String::new();
    match text::encode(&mut page, &registry) {
        Ok(()) => ([(CONTENT_TYPE, OPENMETRICS_CONTENT_TYPE)], page).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn register_counters(state: &AppState, registry: &mut Registry) {
    state.metrics.register(registry);
    registry.register(
        "database_round_trip_seconds",
        "How long the database takes to answer the simplest question, asked four times a second",
        state.accounts.round_trip_seconds.clone(),
    );
    registry.register(
        "audit_rows_dropped",
        "Refused requests that left no audit row, in a flood of them",
        state.audit.dropped.clone(),
    );
}

fn register_gauges(state: &AppState, registry: &mut Registry) {
    registry.register("build", "The program", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
    let connections = Family::<StateLabel, Gauge>::default();
    let (all, idle) = (state.pool.size().into(), i64::try_from(state.pool.idle_count()).unwrap_or(0));
    connections.get_or_create(&StateLabel { state: "idle" }).set(idle);
    connections.get_or_create(&StateLabel { state: "busy" }).set(i64::saturating_sub(all, idle).max(0));
    registry.register("database_connections", "Connections of requests to the database", connections);
    let most = u64::from(state.config.database_connections);
    registry.register("database_connections_max", "As many as there may be", ConstGauge::new(most));
    let running = u64::try_from(state.load.requests_in_flight()).unwrap_or(u64::MAX);
    registry.register(
        "requests_in_flight",
        "Requests that are worked at, or wait for the database",
        ConstGauge::new(running),
    );
    let waiting = u64::try_from(state.batcher.queued_sales()).unwrap_or(u64::MAX);
    registry.register("sales_queued", "Sales that wait to be made together", ConstGauge::new(waiting));
    let bytes = u64::try_from(state.load.body_bytes_held()).unwrap_or(u64::MAX);
    registry.register("request_bodies_bytes", "Memory that request bodies above 16 kB hold", ConstGauge::new(bytes));
    if state.accounts.is_enabled() {
        register_cache(state, registry);
    }
}

fn register_cache(state: &AppState, registry: &mut Registry) {
    let memory = state.accounts.state();
    registry.register(
        "cache_valid",
        "1: users, rights and settings come from memory; 0: they are read for each request",
        ConstGauge::new(i64::from(memory.is_valid)),
    );
    let users = u64::try_from(memory.user_count).unwrap_or(u64::MAX);
    registry.register("cache_users", "Users in memory", ConstGauge::new(users));
    registry.register("cache_invalidations", "How often memory was forgotten", ConstCounter::new(memory.invalidations));
}

/// What the database must be asked for. What it doesn't tell in time is left out: the rest is wanted most of all then.
async fn register_database(watch: &MonitoringState, registry: &mut Registry) {
    let (errands, others) = (watch.state.background_pool.clone(), watch.state.background_pool.clone());
    let (groups, mails) = tokio::join!(
        watch.group_stock.get_or_refresh(async move { with_expiry("cards", query_group_stock(&errands).await) }),
        watch.outbox_stats.get_or_refresh(async move { with_expiry("e-mails", query_outbox_stats(&others).await) }),
    );
    if let Some(groups) = groups.flatten() {
        let cards = Family::<GroupLabels, Gauge>::default();
        for GroupStock { id, name, cards: left } in groups {
            cards.get_or_create(&GroupLabels { cardgroup_id: id, name }).set(left);
        }
        registry.register("cards_left", "Cards that a group can still sell, counted up to 10000 once a minute", cards);
    }
    if let Some(OutboxStats { waiting, oldest_age_seconds: oldest, failed }) = mails.flatten() {
        let mails = Family::<StateLabel, Gauge>::default();
        mails.get_or_create(&StateLabel { state: "waiting" }).set(waiting);
        mails.get_or_create(&StateLabel { state: "failed" }).set(failed);
        registry.register("outbox_messages", "E-mails with sold cards: waiting, and given up within a day", mails);
        let oldest = ConstGauge::new(oldest);
        registry.register(
            "outbox_oldest_age_seconds",
            "How long the oldest e-mail that isn't sent has been waiting",
            oldest,
        );
    }
}

/// What was counted, or that it couldn't be, and until when nobody needs to try again.
fn with_expiry<T>(what: &str, counted: sqlx::Result<T>) -> (Option<T>, Instant) {
    match counted {
        Ok(counted) => (Some(counted), Instant::now() + COUNTS_TTL),
        Err(error) => {
            tracing::warn!(%error, "{what} can't be counted");
            (None, Instant::now() + FAILED_QUERY_TTL)
        }
    }
}

async fn query_outbox_stats(database: &PgPool) -> sqlx::Result<OutboxStats> {
    sqlx::query_as!(
        OutboxStats,
        r#"select count(*) as "waiting!", coalesce(max(extract(epoch from now() at time zone 'utc' - created_at)), 0)::bigint as "oldest_age_seconds!",
               (select count(*) from email_outbox
                where coalesce(sent_at, failed_at) > now() at time zone 'utc' - interval '1 day' and failed_at is not null) as "failed!"
           from email_outbox where sent_at is null and failed_at is null"#
    )
    .fetch_one(database)
    .await
}

async fn query_group_stock(database: &PgPool) -> sqlx::Result<Vec<GroupStock>> {
    sqlx::query_as!(
        GroupStock,
        r#"select id, coalesce(name, '') as "name!",
               (select count(*) from (select from card_stock where cardgroup_id = cardgroups.id limit $1) few) as "cards!"
           from cardgroups where hidden = 0 order by id limit $2"#,
        CARDS_COUNTED_MAX,
        GROUPS_MAX
    )
    .fetch_all(database)
    .await
}
