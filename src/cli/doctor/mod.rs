//! `mortise doctor`: everything that can be looked at before it hurts, and what to do about it.

mod disk;
mod keys;
mod schema;
mod server;
mod stock;

use serde::Serialize;
use serde_json::json;
use sqlx::{PgConnection, PgPool};

use super::database::{begin_read_only, with_any_schema};
use super::{CommandError, Report};
use crate::config::{Config, ConfigError, Layers};
use crate::mail::Mailer;

/// What was found of one thing.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    state: CheckState,
    message: String,
    /// What to do about it.
    advice: Option<String>,
}

/// How it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum CheckState {
    Ok,
    /// Look at it by day.
    Warning,
    /// Money, data or service is in danger.
    Problem,
}

impl CheckState {
    fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "PROBLEM",
        }
    }
}

impl Check {
    fn ok(name: &'static str, says: impl Into<String>) -> Self {
        Self { name, state: CheckState::Ok, message: says.into(), advice: None }
    }

    fn warning(name: &'static str, says: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, state: CheckState::Warning, message: says.into(), advice: Some(advice.into()) }
    }

    fn problem(name: &'static str, says: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, state: CheckState::Problem, message: says.into(), advice: Some(advice.into()) }
    }

    /// Fine if nothing is named.
    fn ok_if_empty(name: &'static str, named: &[String], fine: &str, otherwise: impl FnOnce(String) -> Self) -> Self {
        if named.is_empty() { Self::ok(name, fine) } else { otherwise(join_limited(named)) }
    }

    fn format_line(&self) -> String {
        let advice = self.advice.as_ref().map(|advice| format!("\n{:23}-> {advice}", ""));
        format!("{:8} {:13} {}{}", self.state.label(), self.name, self.message, advice.unwrap_or_default())
    }
}

/// A few of them, and how many more there are.
fn join_limited(named: &[String]) -> String {
    const ITEMS_MAX: usize = 10;
    let some = named.iter().take(ITEMS_MAX).map(|name| name.replace(char::is_control, "\u{fffd}")).collect::<Vec<_>>();
    let more = named.len().saturating_sub(ITEMS_MAX);
    if more == 0 { some.join(", ") } else { format!("{} and {more} more", some.join(", ")) }
}

/// Looks at everything that can be reached.
pub async fn run(settings: Result<Layers, ConfigError>) -> Report {
    let mut checks = Vec::new();
    match settings.and_then(|layers| layers.config()) {
        Err(error) => checks.push(Check::problem("settings", error.to_string(), "mend it: the server doesn't start")),
        Ok(config) => {
            checks.push(match Mailer::new(&config) {
                Ok(_) => Check::ok("settings", format!("they make sense; the server listens on {}", config.listen)),
                Err(error) => Check::problem("settings", error.to_string(), "mend it: the server doesn't start"),
            });
            checks.extend(disk::check_free_space(&config));
            match with_any_schema(&config, async |pool| Ok(run_database_checks(pool).await)).await {
                Ok(more) => checks.extend(more),
                Err(error) => checks.push(database_unreachable(&error)),
            }
        }
    }
    let is_fine = checks.iter().all(|check| check.state != CheckState::Problem);
    let count = |state| checks.iter().filter(|check| check.state == state).count();
    let end = format!("problems: {}, warnings: {}", count(CheckState::Problem), count(CheckState::Warning));
    let lines: Vec<String> = checks.iter().map(Check::format_line).chain([end]).collect();
    Report::new(lines.join("\n"), json!({ "ok": is_fine, "checks": checks })).fail_unless(is_fine)
}

fn database_unreachable(error: &CommandError) -> Check {
    Check::problem("database", error.to_string(), "without it every request is answered 503: is PostgreSQL running?")
}

async fn run_database_checks(pool: &PgPool) -> Vec<Check> {
    let mut checks = vec![check_or_problem("clock", server::check_clock(pool).await)];
    match begin_read_only(pool).await {
        Ok(mut transaction) => run_snapshot_checks(pool, &mut transaction, &mut checks).await,
        Err(error) => checks.push(database_unreachable(&error.into())),
    }
    checks
}

async fn run_snapshot_checks(pool: &PgPool, connection: &mut PgConnection, checks: &mut Vec<Check>) {
    checks.push(check_or_problem("database", server::check_version(connection).await));
    checks.push(check_or_problem("durability", server::check_durability(connection).await));
    checks.push(check_or_problem("autovacuum", server::check_autovacuum(connection).await));
    checks.push(check_or_problem("snapshots", server::check_snapshots(connection).await));
    checks.push(check_or_problem("idle", server::check_idle_in_transaction(connection).await));
    let migrations = schema::check_migrations(pool).await;
    let is_current = migrations.state == CheckState::Ok;
    checks.push(migrations);
    if is_current {
        checks.push(check_or_problem("indexes", schema::check_indexes(connection).await));
        checks.push(check_or_problem("stock", stock::check_stock(connection).await));
        checks.push(check_or_problem("pins", stock::check_pins(connection).await));
        checks.push(check_or_problem("cards", stock::check_remaining_cards(connection).await));
        match keys::check_all(pool, connection).await {
            Ok(more) => checks.extend(more),
            Err(error) => checks.push(check_or_problem("keys", Err(error))),
        }
    }
}

/// What can't be looked at is a problem too.
fn check_or_problem(name: &'static str, check: sqlx::Result<Check>) -> Check {
    check.unwrap_or_else(|error| {
        Check::problem(name, format!("can't be checked: {error}"), "look into PostgreSQL's log, and run this again")
    })
}

/// Where the local PostgreSQL lives, if that is the one in use.
fn local_data_dir(config: &Config) -> Option<std::path::PathBuf> {
    config.database_url.reveal().is_empty().then(|| crate::server::data_dir(config))
}
