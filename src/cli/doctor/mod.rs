//! `mortise doctor`: everything that can be looked at before it hurts, and what to do about it.

mod disk;
mod keys;
mod schema;
mod server;
mod stock;

use serde::Serialize;
use serde_json::json;
use sqlx::{PgConnection, PgPool};

use super::database::{on_any_schema, reading};
use super::{Failure, Report};
use crate::config::{Config, ConfigError, Layers};
use crate::mail::Mail;

/// What was found of one thing.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    state: State,
    says: String,
    /// What to do about it.
    advice: Option<String>,
}

/// How it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    /// Look at it by day.
    Warning,
    /// Money, data or service is in danger.
    Problem,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "PROBLEM",
        }
    }
}

impl Check {
    fn ok(name: &'static str, says: impl Into<String>) -> Self {
        Self { name, state: State::Ok, says: says.into(), advice: None }
    }

    fn warning(name: &'static str, says: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, state: State::Warning, says: says.into(), advice: Some(advice.into()) }
    }

    fn problem(name: &'static str, says: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, state: State::Problem, says: says.into(), advice: Some(advice.into()) }
    }

    /// Fine if nothing is named.
    fn none_of(name: &'static str, named: &[String], fine: &str, otherwise: impl FnOnce(String) -> Self) -> Self {
        if named.is_empty() { Self::ok(name, fine) } else { otherwise(listed(named)) }
    }

    fn line(&self) -> String {
        let advice = self.advice.as_ref().map(|advice| format!("\n{:23}-> {advice}", ""));
        format!("{:8} {:13} {}{}", self.state.word(), self.name, self.says, advice.unwrap_or_default())
    }
}

/// A few of them, and how many more there are.
fn listed(named: &[String]) -> String {
    const MOST: usize = 10;
    let some = named.iter().take(MOST).map(|name| name.replace(char::is_control, "\u{fffd}")).collect::<Vec<_>>();
    let more = named.len().saturating_sub(MOST);
    if more == 0 { some.join(", ") } else { format!("{} and {more} more", some.join(", ")) }
}

/// Looks at everything that can be reached.
pub async fn run(settings: Result<Layers, ConfigError>) -> Report {
    let mut checks = Vec::new();
    match settings.and_then(|layers| layers.config()) {
        Err(error) => checks.push(Check::problem("settings", error.to_string(), "mend it: the server doesn't start")),
        Ok(config) => {
            checks.push(match Mail::new(&config) {
                Ok(_) => Check::ok("settings", format!("they make sense; the server listens on {}", config.listen)),
                Err(error) => Check::problem("settings", error.to_string(), "mend it: the server doesn't start"),
            });
            checks.extend(disk::free(&config));
            match on_any_schema(&config, async |pool| Ok(examine(pool).await)).await {
                Ok(more) => checks.extend(more),
                Err(error) => checks.push(unreachable(&error)),
            }
        }
    }
    let is_fine = checks.iter().all(|check| check.state != State::Problem);
    let count = |state| checks.iter().filter(|check| check.state == state).count();
    let end = format!("problems: {}, warnings: {}", count(State::Problem), count(State::Warning));
    let lines: Vec<String> = checks.iter().map(Check::line).chain([end]).collect();
    Report::of(lines.join("\n"), json!({ "ok": is_fine, "checks": checks })).bad_unless(is_fine)
}

fn unreachable(error: &Failure) -> Check {
    Check::problem("database", error.to_string(), "without it every request is answered 503: is PostgreSQL running?")
}

async fn examine(pool: &PgPool) -> Vec<Check> {
    let mut checks = vec![attempt("clock", server::clock(pool).await)];
    match reading(pool).await {
        Ok(mut transaction) => look(pool, &mut transaction, &mut checks).await,
        Err(error) => checks.push(unreachable(&error.into())),
    }
    checks
}

async fn look(pool: &PgPool, connection: &mut PgConnection, checks: &mut Vec<Check>) {
    checks.push(attempt("database", server::version(connection).await));
    checks.push(attempt("durability", server::durability(connection).await));
    checks.push(attempt("autovacuum", server::autovacuum(connection).await));
    checks.push(attempt("snapshots", server::snapshots(connection).await));
    checks.push(attempt("idle", server::idle_in_transaction(connection).await));
    let migrations = schema::migrations(pool).await;
    let is_current = migrations.state == State::Ok;
    checks.push(migrations);
    if is_current {
        checks.push(attempt("indexes", schema::indexes(connection).await));
        checks.push(attempt("stock", stock::differences(connection).await));
        checks.push(attempt("pins", stock::pins(connection).await));
        checks.push(attempt("cards", stock::cards_left(connection).await));
        match keys::all(pool, connection).await {
            Ok(more) => checks.extend(more),
            Err(error) => checks.push(attempt("keys", Err(error))),
        }
    }
}

/// What can't be looked at is a problem too.
fn attempt(name: &'static str, check: sqlx::Result<Check>) -> Check {
    check.unwrap_or_else(|error| {
        Check::problem(name, format!("can't be checked: {error}"), "look into PostgreSQL's log, and run this again")
    })
}

/// Where the local PostgreSQL lives, if that is the one in use.
fn data_dir(config: &Config) -> Option<std::path::PathBuf> {
    config.database_url.reveal().is_empty().then(|| crate::server::data_dir(config))
}
