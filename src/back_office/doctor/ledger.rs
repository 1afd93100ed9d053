//! The check of the ledger.

use sqlx::PgConnection;

use super::{Check, join_limited};
use crate::back_office::ledger::{Scope, find_violations};

/// The payments that are checked: those of the last hours or days. `mortise backup` checks all.
const PAYMENTS_CHECKED: i64 = 10_000;

/// Checks the rules of the ledger for the latest payments and for all cards.
pub async fn check_rules(connection: &mut PgConnection) -> sqlx::Result<Check> {
    let violations = find_violations(connection, Scope::Latest(PAYMENTS_CHECKED)).await?;
    Ok(if violations.is_empty() {
        Check::ok("ledger", format!("the rules of the ledger hold for the latest {PAYMENTS_CHECKED} payments"))
    } else {
        let advice = "keep the log, make a backup, and find the change with `mortise audit`";
        Check::problem("ledger", join_limited(&violations), advice)
    })
}
