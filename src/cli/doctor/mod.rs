//! `mortise doctor`: checks settings, disk, PostgreSQL, schema, stock and keys, and advises an action for each finding.

mod backups;
mod disk;
mod ids;
mod keys;
mod ledger;
mod mail;
mod resellers;
mod schema;
mod server;
mod stock;
mod text;

use secrecy::ExposeSecret;
use serde::Serialize;
use serde_json::json;
use sqlx::{Connection, PgConnection, PgPool};

use super::database::{begin_read_only, with_any_schema};
use super::{CommandError, Report, with_running_address};
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
pub async fn run(layers: Result<Layers, ConfigError>, is_listen_named: bool) -> Report {
    const SETTINGS_ADVICE: &str = "correct the setting: the server does not start";
    let mut checks = Vec::new();
    match layers.and_then(|layers| layers.config()) {
        Err(error) => checks.push(Check::problem("settings", error.to_string(), SETTINGS_ADVICE)),
        Ok(config) => {
            let config = with_running_address(config, is_listen_named);
            checks.push(match Mailer::new(&config) {
                Ok(_) => Check::ok("settings", format!("valid; the server listens on {}", config.listen)),
                Err(error) => Check::problem("settings", error.to_string(), SETTINGS_ADVICE),
            });
            checks.extend(disk::check_free_space(&config));
            checks.push(disk::check_temp_dir(&config));
            checks.push(check_passwords(&config));
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

/// Checks that a leaked secret key alone does not permit to buy cards.
fn check_passwords(config: &Config) -> Check {
    if config.require_password {
        Check::ok("passwords", "each request must have the password of its user")
    } else {
        let message = "requests need no password: who has the secret key of an owner can act as each of its users";
        Check::warning("passwords", message, "let the clients send p, then set require_password = true")
    }
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
    checks.push(run_check("database", connection, server::check_version).await);
    checks.push(run_check("session", connection, server::check_session).await);
    checks.push(run_check("durability", connection, server::check_durability).await);
    checks.push(run_check("autovacuum", connection, server::check_autovacuum).await);
    checks.push(run_check("snapshots", connection, server::check_snapshots).await);
    checks.push(run_check("idle", connection, server::check_idle_in_transaction).await);
    let migrations = schema::check_migrations(pool).await;
    let is_current = migrations.state == CheckState::Ok;
    checks.push(migrations);
    if is_current {
        checks.extend(run_checks("objects", connection, schema::check_objects).await);
        checks.extend(run_checks("import", connection, schema::check_staged_rows).await);
        checks.push(run_check("ids", connection, ids::check_sequences).await);
        let days = config.audit_retention_days;
        checks
            .push(run_check("audit", connection, async |connection| ids::check_refusals(connection, days).await).await);
        checks.push(run_check("stock", connection, stock::check_stock).await);
        checks.push(run_check("pins", connection, stock::check_pins).await);
        checks.push(run_check("cards", connection, stock::check_remaining_cards).await);
        checks.push(run_check("validity", connection, stock::check_expired_groups).await);
        checks.push(run_check("ledger", connection, ledger::check_rules).await);
        checks.push(run_check("resellers", connection, resellers::check_tariffs).await);
        checks.push(run_check("backup", connection, backups::check_age).await);
        checks.push(run_check("text", connection, text::check_invisible_chars).await);
        checks.push(run_check("mail", connection, mail::check_outbox).await);
        checks.extend(run_checks("keys", connection, async |connection| keys::check_all(pool, connection).await).await);
    }
}

/// Runs a check in a savepoint: if it fails, for example because a table is missing, the next ones run all the same.
async fn run_check(
    name: &'static str,
    connection: &mut PgConnection,
    check: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<Check>,
) -> Check {
    let result = async {
        let mut savepoint = connection.begin().await?;
        check(&mut savepoint).await
    };
    check_or_problem(name, result.await)
}

/// Runs several checks in a savepoint.
async fn run_checks(
    name: &'static str,
    connection: &mut PgConnection,
    checks: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<Vec<Check>>,
) -> Vec<Check> {
    let result = async {
        let mut savepoint = connection.begin().await?;
        checks(&mut savepoint).await
    };
    result.await.unwrap_or_else(|error| vec![check_or_problem(name, Err(error))])
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
    config.database_url.expose_secret().is_empty().then(|| crate::server::data_dir(config))
}
