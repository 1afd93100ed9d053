//! The checks of settings and database, for `mortise doctor` and the console. Each finding has an advice.

mod backups;
mod console;
mod ids;
mod keys;
mod ledger;
mod mail;
mod resellers;
mod schema;
mod server;
mod stock;
mod text;

use serde::Serialize;
use sqlx::{Connection, PgConnection, PgPool};

use crate::config::Config;
use crate::store::pages::BEGIN_READ_ONLY;

/// The result of one check.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// The name of the check.
    pub name: &'static str,
    /// How urgent it is.
    pub state: CheckState,
    /// What was found.
    pub message: String,
    /// The action for the operator; `None` if the state is `Ok`.
    pub advice: Option<String>,
}

/// The state of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckState {
    /// Nothing to do.
    Ok,
    /// It can wait for the next working day.
    Warning,
    /// Money, data or service is in danger: act now.
    Problem,
}

impl Check {
    /// Everything is as it must be.
    pub fn ok(name: &'static str, message: impl Into<String>) -> Self {
        Self { name, state: CheckState::Ok, message: message.into(), advice: None }
    }

    /// A finding that can wait.
    pub fn warning(name: &'static str, message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, state: CheckState::Warning, message: message.into(), advice: Some(advice.into()) }
    }

    /// A finding that cannot wait.
    pub fn problem(name: &'static str, message: impl Into<String>, advice: impl Into<String>) -> Self {
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
}

/// Joins the first 10 items, and adds the number of the others. Control characters become U+FFFD.
fn join_limited(items: &[String]) -> String {
    const ITEMS_MAX: usize = 10;
    let first = items.iter().take(ITEMS_MAX).map(|item| item.replace(char::is_control, "\u{fffd}")).collect::<Vec<_>>();
    let more = items.len().saturating_sub(ITEMS_MAX);
    if more == 0 { first.join(", ") } else { format!("{} and {more} more", first.join(", ")) }
}

/// Which checks run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All.
    All,
    /// Without those that read all cards or all payments.
    Quick,
}

/// Checks that a leaked secret key alone does not permit to buy cards.
pub fn check_passwords(config: &Config) -> Check {
    if config.require_password {
        Check::ok("passwords", "each request must have the password of its user")
    } else {
        let message = "requests need no password: who has the secret key of an owner can act as each of its users";
        Check::warning("passwords", message, "let the clients send p, then set require_password = true")
    }
}

/// Compares the clocks of this machine and of the database.
pub async fn check_clock(pool: &PgPool) -> Check {
    check_or_problem("clock", server::check_clock(pool).await)
}

/// Checks the database, in one transaction.
///
/// # Errors
///
/// If the transaction cannot begin. The error of a check is a problem among the results.
pub async fn check_database(config: &Config, pool: &PgPool, scope: Scope) -> sqlx::Result<Vec<Check>> {
    let mut transaction = pool.begin_with(BEGIN_READ_ONLY).await?;
    let connection = &mut *transaction;
    let mut checks = vec![
        run_check("database", connection, server::check_version).await,
        run_check("session", connection, server::check_session).await,
        run_check("durability", connection, server::check_durability).await,
        run_check("autovacuum", connection, server::check_autovacuum).await,
        run_check("snapshots", connection, server::check_snapshots).await,
        run_check("idle", connection, server::check_idle_in_transaction).await,
    ];
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
        if scope == Scope::All {
            checks.push(run_check("stock", connection, stock::check_stock).await);
            checks.push(run_check("pins", connection, stock::check_pins).await);
            checks.push(run_check("cards", connection, stock::check_remaining_cards).await);
        }
        checks.push(run_check("validity", connection, stock::check_expired_groups).await);
        if scope == Scope::All {
            checks.push(run_check("ledger", connection, ledger::check_rules).await);
        }
        checks.push(run_check("resellers", connection, resellers::check_tariffs).await);
        checks.push(run_check("backup", connection, backups::check_age).await);
        checks.push(run_check("text", connection, text::check_invisible_chars).await);
        checks.push(run_check("mail", connection, mail::check_outbox).await);
        let check_console = async |connection: &mut PgConnection| console::check(config, connection).await;
        checks.push(run_check("console", connection, check_console).await);
        checks.extend(run_checks("keys", connection, async |connection| keys::check_all(pool, connection).await).await);
    }
    Ok(checks)
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
