//! `mortise doctor`: checks settings, disk, PostgreSQL, schema, stock and keys, and advises an action for each finding.

mod disk;
mod ids;
mod keys;
mod schema;
mod server;
mod stock;
mod text;

use serde::Serialize;
use serde_json::json;
use sqlx::{PgConnection, PgPool};

use super::database::{begin_read_only, with_any_schema};
use super::{CommandError, Report};
use crate::config::{Config, ConfigError, Layers};
use crate::db::DatabaseError;
use crate::mail::Mailer;

/// The result of one check.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    state: CheckState,
    message: String,
    /// The action for the operator; `None` if the state is `Ok`.
    advice: Option<String>,
}

/// The state of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum CheckState {
    Ok,
    /// It can wait for the next working day.
    Warning,
    /// Money, data or service is in danger: act now.
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
    fn ok(name: &'static str, message: impl Into<String>) -> Self {
        Self { name, state: CheckState::Ok, message: message.into(), advice: None }
    }

    fn warning(name: &'static str, message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, state: CheckState::Warning, message: message.into(), advice: Some(advice.into()) }
    }

    fn problem(name: &'static str, message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, state: CheckState::Problem, message: message.into(), advice: Some(advice.into()) }
    }

    /// Returns `Ok` with `message` if `findings` is empty, else `otherwise` with the joined findings.
    fn ok_if_empty(
        name: &'static str,
        findings: &[String],
        message: &str,
        otherwise: impl FnOnce(String) -> Self,
    ) -> Self {
        if findings.is_empty() { Self::ok(name, message) } else { otherwise(join_limited(findings)) }
    }

    fn format_line(&self) -> String {
        let advice = self.advice.as_ref().map(|advice| format!("\n{:23}-> {advice}", ""));
        format!("{:8} {:13} {}{}", self.state.label(), self.name, self.message, advice.unwrap_or_default())
    }
}

/// Joins the first 10 items, and adds the number of the others. Control characters become U+FFFD.
fn join_limited(items: &[String]) -> String {
    const ITEMS_MAX: usize = 10;
    let first = items.iter().take(ITEMS_MAX).map(|item| item.replace(char::is_control, "\u{fffd}")).collect::<Vec<_>>();
    let more = items.len().saturating_sub(ITEMS_MAX);
    if more == 0 { first.join(", ") } else { format!("{} and {more} more", first.join(", ")) }
}

/// Runs all checks that are possible: without valid settings or a database, the others are skipped.
pub async fn run(layers: Result<Layers, ConfigError>) -> Report {
    const SETTINGS_ADVICE: &str = "correct the setting: the server does not start";
    let mut checks = Vec::new();
    match layers.and_then(|layers| layers.config()) {
        Err(error) => checks.push(Check::problem("settings", error.to_string(), SETTINGS_ADVICE)),
        Ok(config) => {
            checks.push(match Mailer::new(&config) {
                Ok(_) => Check::ok("settings", format!("valid; the server listens on {}", config.listen)),
                Err(error) => Check::problem("settings", error.to_string(), SETTINGS_ADVICE),
            });
            checks.extend(disk::check_free_space(&config));
            match with_any_schema(&config, async |pool| Ok(run_database_checks(&config, pool).await)).await {
                Ok(more) => checks.extend(more),
                Err(error) => checks.push(database_unreachable(&error)),
            }
        }
    }
    let is_ok = checks.iter().all(|check| check.state != CheckState::Problem);
    let count = |state| checks.iter().filter(|check| check.state == state).count();
    let summary = format!("problems: {}, warnings: {}", count(CheckState::Problem), count(CheckState::Warning));
    let lines: Vec<String> = checks.iter().map(Check::format_line).chain([summary]).collect();
    Report::new(lines.join("\n"), json!({ "ok": is_ok, "checks": checks })).fail_unless(is_ok)
}

fn database_unreachable(error: &CommandError) -> Check {
    if let CommandError::Database(DatabaseError::Session(error)) = error {
        return Check::problem("session", error.to_string(), "the server does not start with this database session");
    }
    let advice = "check that PostgreSQL is running: without a database, every request is answered with 503";
    Check::problem("database", error.to_string(), advice)
}

async fn run_database_checks(config: &Config, pool: &PgPool) -> Vec<Check> {
    let mut checks = vec![check_or_problem("clock", server::check_clock(pool).await)];
    match begin_read_only(pool).await {
        Ok(mut transaction) => run_transaction_checks(config, pool, &mut transaction, &mut checks).await,
        Err(error) => checks.push(database_unreachable(&error.into())),
    }
    checks
}

async fn run_transaction_checks(
    config: &Config,
    pool: &PgPool,
    connection: &mut PgConnection,
    checks: &mut Vec<Check>,
) {
    checks.push(check_or_problem("database", server::check_version(connection).await));
    checks.push(check_or_problem("session", server::check_session(connection).await));
    checks.push(check_or_problem("durability", server::check_durability(connection).await));
    checks.push(check_or_problem("autovacuum", server::check_autovacuum(connection).await));
    checks.push(check_or_problem("snapshots", server::check_snapshots(connection).await));
    checks.push(check_or_problem("idle", server::check_idle_in_transaction(connection).await));
    let migrations = schema::check_migrations(pool).await;
    let is_current = migrations.state == CheckState::Ok;
    checks.push(migrations);
    if is_current {
        checks.push(check_or_problem("indexes", schema::check_indexes(connection).await));
        checks.push(check_or_problem("ids", ids::check_sequences(connection).await));
        checks.push(check_or_problem("audit", ids::check_refusals(connection, config.audit_retention_days).await));
        checks.push(check_or_problem("stock", stock::check_stock(connection).await));
        checks.push(check_or_problem("pins", stock::check_pins(connection).await));
        checks.push(check_or_problem("cards", stock::check_remaining_cards(connection).await));
        checks.push(check_or_problem("text", text::check_invisible_chars(connection).await));
        match keys::check_all(pool, connection).await {
            Ok(more) => checks.extend(more),
            Err(error) => checks.push(check_or_problem("keys", Err(error))),
        }
    }
}

/// Turns the database error of a check into a problem.
fn check_or_problem(name: &'static str, check: sqlx::Result<Check>) -> Check {
    check.unwrap_or_else(|error| {
        let advice = "see PostgreSQL's log, then run `mortise doctor` again";
        Check::problem(name, format!("the check failed: {error}"), advice)
    })
}

/// Returns the data directory of the local PostgreSQL; `None` with `database_url`.
fn local_data_dir(config: &Config) -> Option<std::path::PathBuf> {
    config.database_url.reveal().is_empty().then(|| crate::server::data_dir(config))
}
