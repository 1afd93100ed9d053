//! `mortise doctor`: checks settings, disk, PostgreSQL, schema, stock and keys, and advises an action for each finding.

mod disk;

use secrecy::ExposeSecret;
use serde_json::json;
use sqlx::PgPool;

use super::database::with_any_schema;
use super::{CommandError, Report, with_running_address};
use crate::back_office::doctor::{Check, CheckState, Scope, check_clock, check_database, check_passwords};
use crate::config::{Config, ConfigError, Layers};
use crate::db::DatabaseError;
use crate::mail::Mailer;

/// The label of a state, as it is printed.
fn label(state: CheckState) -> &'static str {
    match state {
        CheckState::Ok => "ok",
        CheckState::Warning => "warning",
        CheckState::Problem => "PROBLEM",
    }
}

fn format_line(check: &Check) -> String {
    let advice = check.advice.as_ref().map(|advice| format!("\n{:23}-> {advice}", ""));
    format!("{:8} {:13} {}{}", label(check.state), check.name, check.message, advice.unwrap_or_default())
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
    let lines: Vec<String> = checks.iter().map(format_line).chain([summary]).collect();
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
    let mut checks = vec![check_clock(pool).await];
    match check_database(config, pool, Scope::All).await {
        Ok(more) => checks.extend(more),
        Err(error) => checks.push(database_unreachable(&error.into())),
    }
    checks
}

/// Returns the data directory of the local PostgreSQL; `None` with `database_url`.
fn local_data_dir(config: &Config) -> Option<std::path::PathBuf> {
    config.database_url.expose_secret().is_empty().then(|| crate::server::data_dir(config))
}
