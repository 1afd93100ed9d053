//! What becomes of each row, from the findings and the decisions.

use sqlx::PgConnection;

use crate::mor_import::error::ImportError;
use crate::mor_import::target::execute;

/// Computes the outcome of each card and row that a finding names, in tables of `mor_import`:
/// `left_out`, `card_outcomes`, and `cells`, the new values.
///
/// # Errors
///
/// If two cards are kept that the database cannot hold both.
pub async fn compute(target: &mut PgConnection) -> Result<(), ImportError> {
    execute(target, include_str!("outcome.sql")).await?;
    let same: Vec<(i64, i64)> = sqlx::query_as(
        "select min(id), max(id) from mor_import.conflicts conflict
         where not exists (select from mor_import.card_outcomes outcome
                           where outcome.id = conflict.id and outcome.is_quarantined)
             and not exists (select from mor_import.left_out
                             where \"table\" = 'cards' and left_out.id = conflict.id)
         group by rule, key, scope having count(*) > 1 order by 1 limit 10",
    )
    .fetch_all(target)
    .await?;
    if same.is_empty() {
        return Ok(());
    }
    let pairs: Vec<String> = same.iter().map(|(first, last)| format!("{first} and {last}")).collect();
    Err(ImportError::refused(format!(
        "cards with the same number or PIN cannot both be kept: {}. Decide for each of them quarantine, or keep for one",
        pairs.join(", ")
    )))
}
