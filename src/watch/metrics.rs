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

use super::Watch;
use crate::app::App;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Counting what is left costs the database something.
const COUNTED_FOR: Duration = Duration::from_mins(1);
/// A group that has more is in no danger, and isn't counted any further.
const MANY: i64 = 10_000;

/// How many cards a group can still sell.
#[derive(Debug, Clone)]
pub struct CardsLeft {
    id: i32,
    name: String,
    cards: i64,
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
    let (all, idle) = (app.pool.size().into(), i64::try_from(app.pool.num_idle()).unwrap_or(0));
    connections.get_or_create(&Is { state: "idle" }).set(idle);
    connections.get_or_create(&Is { state: "busy" }).set(i64::saturating_sub(all, idle));
    registry.register("database_connections", "Connections of requests to the database", connections);
    let most = u64::from(app.config.database_connections);
    registry.register("database_connections_max", "As many as there may be", ConstGauge::new(most));
    let running = u64::try_from(app.load.running()).unwrap_or(u64::MAX);
    registry.register(
        "requests_running",
        "Requests that are worked at, or wait for the database",
        ConstGauge::new(running),
    );
    if app.directory.remembers() {
        memory(app, registry);
    }
}

fn memory(app: &App, registry: &mut Registry) {
    let memory = app.directory.state();
    registry.register(
        "memory_trusted",
        "1: users, rights and settings come from memory; 0: they are read for each request",
        ConstGauge::new(i64::from(memory.is_trusted)),
    );
    let users = u64::try_from(memory.users).unwrap_or(u64::MAX);
    registry.register("memory_users", "Users in memory", ConstGauge::new(users));
    registry.register("memory_forgotten", "How often memory was forgotten", ConstCounter::new(memory.forgotten));
}

/// What the database must be asked for. What it doesn't tell is left out.
async fn in_the_database(watch: &Watch, registry: &mut Registry) {
    match cards_left(watch).await {
        Ok(groups) => {
            let cards = Family::<Group, Gauge>::default();
            for CardsLeft { id, name, cards: left } in groups {
                cards.get_or_create(&Group { cardgroup_id: id, name }).set(left);
            }
            registry.register(
                "cards_left",
                "Cards that a group can still sell, counted up to 10000 once a minute",
                cards,
            );
        }
        Err(error) => tracing::warn!(%error, "cards are left uncounted"),
    }
    if let Err(error) = mails(watch, registry).await {
        tracing::warn!(%error, "e-mails are left uncounted");
    }
}

/// What is in the outbox, on whichever server it came in.
async fn mails(watch: &Watch, registry: &mut Registry) -> sqlx::Result<()> {
    let outbox = sqlx::query!(
        r#"select count(*) as "waiting!", coalesce(max(extract(epoch from now() at time zone 'utc' - created_at)), 0)::bigint as "oldest!",
               (select count(*) from email_outbox where coalesce(sent_at, failed_at) is not null and sent_at is not null) as "sent!",
               (select count(*) from email_outbox where coalesce(sent_at, failed_at) is not null and failed_at is not null) as "failed!"
           from email_outbox where sent_at is null and failed_at is null"#
    )
    .fetch_one(&watch.app.errands)
    .await?;
    let mails = Family::<Is, Gauge>::default();
    for (state, count) in [("waiting", outbox.waiting), ("sent", outbox.sent), ("failed", outbox.failed)] {
        mails.get_or_create(&Is { state }).set(count);
    }
    registry.register(
        "mails",
        "E-mails with sold cards: waiting, and those sent or given up that are still remembered",
        mails,
    );
    let oldest = ConstGauge::new(outbox.oldest);
    registry.register("mail_oldest_seconds", "How long the oldest e-mail that isn't sent has been waiting", oldest);
    Ok(())
}

async fn cards_left(watch: &Watch) -> sqlx::Result<Vec<CardsLeft>> {
    let mut known = watch.cards_left.lock().await;
    if let Some((counted, groups)) = &*known
        && counted.elapsed() < COUNTED_FOR
    {
        return Ok(groups.clone());
    }
    let groups = sqlx::query_as!(
        CardsLeft,
        r#"select id, coalesce(name, '') as "name!",
               (select count(*) from (select from card_stock where cardgroup_id = cardgroups.id limit $1) few) as "cards!"
           from cardgroups where hidden = 0 order by id"#,
        MANY
    )
    .fetch_all(&watch.app.errands)
    .await?;
    *known = Some((Instant::now(), groups.clone()));
    Ok(groups)
}
