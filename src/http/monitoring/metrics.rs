//! `/metrics` in the OpenMetrics text format, for Prometheus.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
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
use crate::telemetry::log_writer;

const OPENMETRICS_CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// How long the results of the counting queries are reused, because counting loads the database.
const COUNTS_TTL: Duration = Duration::from_mins(1);
/// How long a failed query is not repeated, so that scrapes add no load to a failing database.
const FAILED_QUERY_TTL: Duration = Duration::from_secs(10);
/// Maximum number of groups that are exported, ordered by id. A dashboard cannot show more.
const GROUPS_MAX: i64 = 10_000;
/// Maximum number of cards that are counted per group: a group with more will not sell out soon.
const CARDS_COUNTED_MAX: i64 = 10_000;

/// The number of cards for sale in a group, at most [`CARDS_COUNTED_MAX`].
#[derive(Debug, Clone)]
pub struct GroupStock {
    id: i32,
    name: String,
    cards: i64,
}

/// The content of the outbox, which all servers on the database share.
#[derive(Debug, Clone)]
pub struct OutboxStats {
    waiting: i64,
    oldest_age_seconds: i64,
    /// Failed permanently within the last day.
    failed: i64,
}

/// The age of the oldest open snapshot or transaction, which prevents the vacuum of rows that were deleted later.
#[derive(Debug, Clone)]
pub struct SnapshotAge {
    /// Only sessions that the role may see, and prepared transactions.
    seconds: i64,
    /// How many transaction ids were assigned since, with sessions of other roles and replication slots.
    transactions: i32,
}

/// The share of a sequence's ids that are used, from 0 to 1.
#[derive(Debug, Clone)]
pub struct SequenceUsage {
    sequence: String,
    used_ratio: f64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SequenceLabel {
    sequence: String,
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

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueueLabel {
    queue: &'static str,
}

/// Handles `GET /metrics`: writes the current values into a registry that is built for each request.
pub async fn get_metrics(State(monitoring): State<Arc<MonitoringState>>) -> Response {
    let mut registry = Registry::with_prefix("mortise");
    register_counters(&monitoring.state, &mut registry);
    register_gauges(&monitoring.state, &mut registry);
    register_database(&monitoring, &mut registry).await;
    let mut output = String::new();
    match text::encode(&mut output, &registry) {
        Ok(()) => ([(CONTENT_TYPE, OPENMETRICS_CONTENT_TYPE)], output).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn register_counters(state: &AppState, registry: &mut Registry) {
    state.metrics.register(registry);
    registry.register(
        "database_round_trip_seconds",
        "Duration of a trivial query, run four times a second",
        state.accounts.round_trip_seconds.clone(),
    );
    registry.register(
        "audit_rows_dropped",
        "Refused requests without an audit row because the audit queue was full",
        state.audit.dropped.clone(),
    );
    registry.register(
        "log_lines_dropped",
        "Log lines that were not written because standard error did not accept them",
        ConstCounter::new(log_writer::dropped_lines()),
    );
}

fn register_gauges(state: &AppState, registry: &mut Registry) {
    registry.register("build", "Version of the program", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
    let connections = Family::<StateLabel, Gauge>::default();
    let [total, idle] =
        [state.pool.size(), state.pool.idle_count()].map(|count| i64::try_from(count).unwrap_or(i64::MAX));
    connections.get_or_create(&StateLabel { state: "idle" }).set(idle);
    connections.get_or_create(&StateLabel { state: "busy" }).set(i64::saturating_sub(total, idle).max(0));
    registry.register("database_connections", "Database connections of requests, by state", connections);
    let connections_max = u64::from(state.config.database_connections);
    registry.register(
        "database_connections_max",
        "Upper limit of database connections of requests",
        ConstGauge::new(connections_max),
    );
    let in_flight = u64::try_from(state.load.requests_in_flight()).unwrap_or(u64::MAX);
    registry.register(
        "requests_in_flight",
        "Requests that are being processed or wait for the database",
        ConstGauge::new(in_flight),
    );
    let waiting = Family::<QueueLabel, Gauge>::default();
    let (passwords, user_lookup) = (&state.passwords, &state.user_lookup);
    for queue in [
        &passwords.check_queue,
        &passwords.sharing_queue,
        &user_lookup.queue,
        &user_lookup.sharing_queue,
        &state.lock_queue,
    ] {
        let count = i64::try_from(queue.waiting_count()).unwrap_or(i64::MAX);
        waiting.get_or_create(&QueueLabel { queue: queue.name }).set(count);
    }
    registry.register(
        "requests_waiting",
        "Requests that wait in a queue of this server and do not count as in flight",
        waiting,
    );
    let queued = u64::try_from(state.batcher.queued_sales()).unwrap_or(u64::MAX);
    registry.register("sales_queued", "Sales that wait for the next batch", ConstGauge::new(queued));
    let bytes = u64::try_from(state.load.body_bytes_held()).unwrap_or(u64::MAX);
    registry.register("request_bodies_bytes", "Memory held by request bodies above 16 kB", ConstGauge::new(bytes));
    if state.accounts.is_enabled() {
        register_cache(state, registry);
    }
}

fn register_cache(state: &AppState, registry: &mut Registry) {
    let cache = state.accounts.state();
    registry.register(
        "cache_valid",
        "1: users, rights and settings come from the cache; 0: each request reads them from the database",
        ConstGauge::new(i64::from(cache.is_valid)),
    );
    let users = u64::try_from(cache.user_count).unwrap_or(u64::MAX);
    registry.register("cache_users", "Users in the cache", ConstGauge::new(users));
    registry.register(
        "cache_invalidations",
        "Invalidations of the whole cache",
        ConstCounter::new(cache.invalidations),
    );
}

/// Registers the metrics that need queries. If the database does not answer in time, they are left out: the other
/// metrics are needed most then.
async fn register_database(monitoring: &MonitoringState, registry: &mut Registry) {
    let [stock_pool, outbox_pool, snapshot_pool, sequence_pool] =
        [(); 4].map(|()| monitoring.state.background_pool.clone());
    let (groups, outbox, snapshot, sequences) = tokio::join!(
        monitoring
            .group_stock
            .get_or_refresh(async move { with_expiry("cards_left", query_group_stock(&stock_pool).await) }),
        monitoring
            .outbox_stats
            .get_or_refresh(async move { with_expiry("outbox_messages", query_outbox_stats(&outbox_pool).await) }),
        monitoring
            .snapshot_age
            .get_or_refresh(async move { with_expiry("snapshot_age", query_snapshot_age(&snapshot_pool).await) }),
        monitoring.sequence_usage.get_or_refresh(async move {
            with_expiry("sequence_used_ratio", query_sequence_usage(&sequence_pool).await)
        }),
    );
    if let Some(groups) = groups.flatten() {
        let cards_left = Family::<GroupLabels, Gauge>::default();
        for GroupStock { id, name, cards } in groups {
            cards_left.get_or_create(&GroupLabels { cardgroup_id: id, name }).set(cards);
        }
        registry.register("cards_left", "Cards for sale per group, counted up to 10000 once a minute", cards_left);
    }
    if let Some(sequences) = sequences.flatten() {
        register_sequences(sequences, registry);
    }
    if let Some(OutboxStats { waiting, oldest_age_seconds, failed }) = outbox.flatten() {
        let messages = Family::<StateLabel, Gauge>::default();
        messages.get_or_create(&StateLabel { state: "waiting" }).set(waiting);
        messages.get_or_create(&StateLabel { state: "failed" }).set(failed);
        registry.register(
            "outbox_messages",
            "E-mails with sold cards: waiting, or failed permanently within the last day",
            messages,
        );
        registry.register(
            "outbox_oldest_age_seconds",
            "Age of the oldest waiting e-mail",
            ConstGauge::new(oldest_age_seconds),
        );
    }
    if let Some(SnapshotAge { seconds, transactions }) = snapshot.flatten() {
        registry.register(
            "database_snapshot_age_seconds",
            "Age of the oldest open snapshot or transaction in the database",
            ConstGauge::new(seconds),
        );
        registry.register(
            "database_snapshot_age_transactions",
            "Transactions since the oldest open snapshot, also of other roles and replication slots",
            ConstGauge::new(i64::from(transactions)),
        );
    }
}

/// Registers the share of used ids, per sequence.
fn register_sequences(sequences: Vec<SequenceUsage>, registry: &mut Registry) {
    let used_ratios = Family::<SequenceLabel, Gauge<f64, AtomicU64>>::default();
    for SequenceUsage { sequence, used_ratio } in sequences {
        used_ratios.get_or_create(&SequenceLabel { sequence }).set(used_ratio);
    }
    registry.register(
        "sequence_used_ratio",
        "Share of the ids of a sequence that are used; at 1 inserts fail",
        used_ratios,
    );
}

/// Returns the result of a query (`None`: it failed), and the time at which it runs again.
fn with_expiry<T>(metric: &'static str, result: sqlx::Result<T>) -> (Option<T>, Instant) {
    match result {
        Ok(counts) => (Some(counts), Instant::now() + COUNTS_TTL),
        Err(error) => {
            tracing::warn!(metric, %error, "metric update failed");
            (None, Instant::now() + FAILED_QUERY_TTL)
        }
    }
}

async fn query_outbox_stats(pool: &PgPool) -> sqlx::Result<OutboxStats> {
    sqlx::query_as!(
        OutboxStats,
        r#"select count(*) as "waiting!",
               coalesce(max(extract(epoch from now() at time zone 'utc' - created_at)), 0)::bigint
                   as "oldest_age_seconds!",
               (select count(*) from email_outbox
                where coalesce(sent_at, failed_at) > now() at time zone 'utc' - interval '1 day'
                    and failed_at is not null) as "failed!"
           from email_outbox where sent_at is null and failed_at is null"#
    )
    .fetch_one(pool)
    .await
}

async fn query_snapshot_age(pool: &PgPool) -> sqlx::Result<SnapshotAge> {
    // A vacuum ignores the snapshots of other vacuums. Other databases' sessions do not matter.
    sqlx::query_as!(
        SnapshotAge,
        r#"select coalesce(max(extract(epoch from clock_timestamp() - started_at)), 0)::bigint as "seconds!",
               coalesce(max(greatest(age(xmin), age(xid))), 0) as "transactions!"
           from (
               select xact_start, backend_xmin, backend_xid from pg_stat_activity
               where (datname = current_database() or backend_type = 'walsender')
                   and coalesce(backend_xmin, backend_xid) is not null and pid <> pg_backend_pid()
                   and pid not in (select pid from pg_stat_progress_vacuum)
               union all
               select prepared, null, transaction from pg_prepared_xacts where database = current_database()
               union all
               select null, xmin, null from pg_replication_slots where xmin is not null
           ) holder (started_at, xmin, xid)"#
    )
    .fetch_one(pool)
    .await
}

async fn query_sequence_usage(pool: &PgPool) -> sqlx::Result<Vec<SequenceUsage>> {
    sqlx::query_as!(
        SequenceUsage,
        r#"select sequencename::text as "sequence!",
               coalesce(last_value, 0)::double precision / max_value as "used_ratio!"
           from pg_sequences where schemaname = current_schema() order by 1"#
    )
    .fetch_all(pool)
    .await
}

async fn query_group_stock(pool: &PgPool) -> sqlx::Result<Vec<GroupStock>> {
    sqlx::query_as!(
        GroupStock,
        r#"select id, coalesce(name, '') as "name!",
               (select count(*) from (select from card_stock where cardgroup_id = cardgroups.id limit $1) counted)
                   as "cards!"
           from cardgroups where hidden = 0 order by id limit $2"#,
        CARDS_COUNTED_MAX,
        GROUPS_MAX
    )
    .fetch_all(pool)
    .await
}
