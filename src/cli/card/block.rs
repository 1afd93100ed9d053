//! `mortise card block` and `mortise card unblock`.

use serde_json::json;

use super::CardArgument;
use crate::back_office::withhold::block_card;
use crate::cli::database::with_database;
use crate::cli::{CommandError, Report, author};
use crate::config::Config;

/// Runs the command, in one transaction.
pub(super) async fn run(card: &CardArgument, block: bool, config: &Config) -> Result<Report, CommandError> {
    with_database(config, async |pool| {
        let mut transaction = pool.begin().await?;
        let card = card.find(&mut transaction).await?;
        let changed = block_card(&mut transaction, card.id, block, None, &author()).await?;
        transaction.commit().await?;
        let number = card.number.unwrap_or_default();
        let text = match (block, changed) {
            (true, true) => format!("The card {number} is blocked."),
            (true, false) => format!("The card {number} was blocked before."),
            (false, true) => format!("The card {number} is unblocked."),
            (false, false) => format!("The card {number} was not blocked."),
        };
        Ok(Report::new(text, json!({ "card": card.id, "number": number, "blocked": block, "changed": changed })))
    })
    .await
}
