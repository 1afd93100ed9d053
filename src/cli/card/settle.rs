//! `mortise card settle`: decides about a quarantined card.

use clap::Args;
use serde_json::json;
use strum::VariantNames;

use crate::back_office::parse_reason;
use crate::back_office::settle::{Settle, Settlement};
use crate::cli::database::with_database;
use crate::cli::{CommandError, Report, author};
use crate::config::Config;

/// The card, and the decision.
#[derive(Debug, Args)]
pub struct Options {
    /// The card's id, as in `mortise cards list --quarantined`
    id: i64,
    /// sold: sold and usable; free: back into stock; retired: its balance is given up
    #[arg(long = "as", value_name = "STATE", value_parser = parse_settlement)]
    settlement: Settlement,
    /// Also put a card that looks used back into stock
    #[arg(long)]
    used: bool,
    /// Why; the change log gets it
    #[arg(long, value_name = "TEXT", value_parser = parse_reason)]
    reason: String,
}

fn parse_settlement(text: &str) -> Result<Settlement, String> {
    text.parse().map_err(|_| format!("expected {}", Settlement::VARIANTS.join(", ")))
}

/// Runs the command, in one transaction.
pub(super) async fn run(options: &Options, config: &Config) -> Result<Report, CommandError> {
    with_database(config, async |pool| {
        let Options { id, settlement, used, reason } = options;
        let mut transaction = pool.begin().await?;
        let settle = Settle { card_id: *id, settlement: *settlement, used: *used, reason };
        let changed = settle.run(&mut transaction, &author()).await?;
        transaction.commit().await?;
        let decision: &'static str = settlement.into();
        let verb = if changed { "is" } else { "was" };
        let text = format!("The card {id} {verb} settled as {decision}.");
        Ok(Report::new(text, json!({ "card": id, "settled": decision, "changed": changed })))
    })
    .await
}
