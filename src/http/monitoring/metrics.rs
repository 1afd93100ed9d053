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

use super::Watch;
use crate::state::App;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Counting what is left costs the database something.
const COUNTED_FOR: Duration = Duration::from_mins(1);
/// And so does asking one that is in trouble.
const TRIED_FOR: Duration = Duration::from_secs(10);
/// More are more than a dashboard shows.
const MOST_GROUPS: i64 = 10_000;
/// A group that has more is in no danger, and isn't counted any further.
const MANY: i64 = 10_000;

/// How many cards a group can still sell.
#[derive(Debug, Clone)]
pub struct CardsLeft {
    id: i32,
    name: String,
    cards: i64,
}

/// What is in the outbox, on whichever server it came in.
#[derive(Debug, Clone)]
pub struct Mails {
    waiting: i64,
    /// In seconds.
    oldest: i64,
    failed: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Group {
    cardgroup_id: i32,
    name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Is {
    state: &'static str,
}

/// Everything, as it is now.
pub async fn page(State(watch): State<Arc<Watch>>) -> Response {
    let mut registry = Registry::with_prefix("mortise");
    counted(&watch.app, &mut registry);
    as_it_is(&watch.app, &mut registry);
    in_the_database(&watch, &mut registry).await;
    let mut page = String::new();
    match text::encode(&mut page, &registry) {
        Ok(()) => ([(CONTENT_TYPE, OPENMETRICS)], page).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn counted(app: &App, registry: &mut Registry) {
    app.figures.register(registry);
    registry.register(
        "database_round_trip_seconds",
        "How long the database takes to answer the simplest question, asked four times a second",
        app.directory.round_trips.clone(),
    );
    registry.register(
        "audit_rows_dropped",
        "Refused requests that left no audit row, in a flood of them",
        app.audit.dropped.clone(),
    );
}

fn as_it_is(app: &App, registry: &mut Registry) {
    registry.register("build", "The program", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
    let connections = Family::<Is, Gauge>::default();
    let (all, idle) = (app.pool.size().into(), i64::try_from(app.pool.idle()).unwrap_or(0));
    connections.get_or_create(&Is { state: "idle" }).set(idle);
    connections.get_or_create(&Is { state: "busy" }).set(i64::saturating_sub(all, idle).max(0));
    registry.register("database_connections", "Connections of requests to the database", connections);
    let most = u64::from(app.config.database_connections);
    registry.register("database_connections_max", "As many as there may be", ConstGauge::new(most));
    let running = u64::try_from(app.load.running()).unwrap_or(u64::MAX);
    registry.register(
        "requests_in_flight",
        "Requests that are worked at, or wait for the database",
        ConstGauge::new(running),
    );
    let waiting = u64::try_from(app.together.waiting()).unwrap_or(u64::MAX);
    registry.register("sales_queued", "Sales that wait to be made together", ConstGauge::new(waiting));
    let bytes = u64::try_from(app.load.bytes()).unwrap_or(u64::MAX);
    registry.register("request_bodies_bytes", "Memory that request bodies above 16 kB hold", ConstGauge::new(bytes));
    if app.directory.remembers() {
        memory(app, registry);
    }
}

fn memory(app: &App, registry: &mut Registry) {
    let memory = app.directory.state();
    registry.register(
        "cache_valid",
        "1: users, rights and settings come from memory; 0: they are read for each request",
        ConstGauge::new(i64::from(memory.is_trusted)),
    );
    let users = u64::try_from(memory.users).unwrap_or(u64::MAX);
    registry.register("cache_users", "Users in memory", ConstGauge::new(users));
    registry.register("cache_invalidations", "How often memory was forgotten", ConstCounter::new(memory.forgotten));
}

/// What the database must be asked for. What it doesn't tell in time is left out: the rest is wanted most of all then.
async fn in_the_database(watch: &Watch, registry: &mut Registry) {
    let (errands, others) = (watch.app.errands.clone(), watch.app.errands.clone());
    let (groups, mails) = tokio::join!(
        watch.cards_left.answer(async move { for_a_while("cards", cards_left(&errands).await) }),
        watch.mails.answer(async move { for_a_while("e-mails", mails(&others).await) }),
    );
    if let Some(groups) = groups.flatten() {
        let cards = Family::<Group, Gauge>::default();
        for CardsLeft { id, name, cards: left } in groups {
            cards.get_or_create(&Group { cardgroup_id: id, name }).set(left);
        }
        registry.register("cards_left", "Cards that a group can still sell, counted up to 10000 once a minute", cards);
    }
    if let Some(Mails { waiting, oldest, failed }) = mails.flatten() {
        let mails = Family::<Is, Gauge>::default();
        mails.get_or_create(&Is { state: "waiting" }).set(waiting);
        mails.get_or_create(&Is { state: "failed" }).set(failed);
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
fn for_a_while<T>(what: &str, counted: sqlx::Result<T>) -> (Option<T>, Instant) {
    match counted {
        Ok(counted) => (Some(counted), Instant::now() + COUNTED_FOR),
        Err(error) => {
            tracing::warn!(%error, "{what} can't be counted");
            (None, Instant::now() + TRIED_FOR)
        }
    }
}

async fn mails(database: &PgPool) -> sqlx::Result<Mails> {
    sqlx::query_as!(
        Mails,
        r#"select count(*) as "waiting!", coalesce(max(extract(epoch from now() at time zone 'utc' - created_at)), 0)::bigint as "oldest!",
               (select count(*) from email_outbox
                where coalesce(sent_at, failed_at) > now() at time zone 'utc' - interval '1 day' and failed_at is not null) as "failed!"
           from email_outbox where sent_at is null and failed_at is null"#
    )
    .fetch_one(database)
    .await
}

async fn cards_left(database: &PgPool) -> sqlx::Result<Vec<CardsLeft>> {
    sqlx::query_as!(
        CardsLeft,
        r#"select id, coalesce(name, '') as "name!",
               (select count(*) from (select from card_stock where cardgroup_id = cardgroups.id limit $1) few) as "cards!"
           from cardgroups where hidden = 0 order by id limit $2"#,
        MANY,
        MOST_GROUPS
    )
    .fetch_all(database)
    .await
}
