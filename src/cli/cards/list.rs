//! `mortise cards list`: the cards that wait for a decision.

use clap::Args;

use crate::back_office::settle::{QuarantinedCard, list_quarantined};
use crate::cli::database::{begin_read_only, with_database};
use crate::cli::{CommandError, Report};
use crate::config::Config;

/// The cards to list.
#[derive(Debug, Args)]
pub struct Options {
    /// The cards that the import has quarantined
    #[arg(long, required = true)]
    quarantined: bool,
}

/// Runs the command.
pub(super) async fn run(_: &Options, config: &Config) -> Result<Report, CommandError> {
    let cards = with_database(config, async |pool| {
        let mut transaction = begin_read_only(pool).await?;
        Ok(list_quarantined(&mut transaction).await?)
    });
    let headings = ["ID", "NUMBER", "GROUP", "BALANCE", "SOLD", "FIRST USE (UTC)", "WHY"];
    Ok(Report::table(headings, &cards.await?, |card| {
        [
            card.id.to_string(),
            card.number.clone().unwrap_or_default(),
            card.cardgroup_id.to_string(),
            card.balance.to_plain_string(),
            if card.sold { "yes" } else { "" }.to_owned(),
            card.first_use.clone().unwrap_or_default(),
            reasons(card),
        ]
    }))
}

/// The rules of the import, and what else keeps the card from being used or sold.
fn reasons(card: &QuarantinedCard) -> String {
    let deleted = card.hidden.then_some("deleted in MOR");
    [card.rules.as_deref(), deleted, card.withheld.as_deref()].into_iter().flatten().collect::<Vec<_>>().join(", ")
}
