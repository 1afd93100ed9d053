//! `mortise card void`: undoes the sale of a card.

use clap::Args;
use serde_json::json;

use super::ChangeArguments;
use crate::back_office::void::{Refund, RefundRow, Void, VoidOutcome};
use crate::cli::database::with_database;
use crate::cli::{CommandError, Report, author};
use crate::config::Config;

/// The card, and what is refunded.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    change: ChangeArguments,
    /// Also if the card was used: calls, top-ups, transfers. Needs --refund
    #[arg(long, requires = "refund")]
    used: bool,
    /// full, none, or an amount in the currency of the sale, without tax [default: full, for an unused card]
    #[arg(long, value_name = "AMOUNT", value_parser = Refund::parse)]
    refund: Option<Refund>,
}

/// Runs the command, in one transaction.
pub(super) async fn run(options: &Options, config: &Config) -> Result<Report, CommandError> {
    with_database(config, async |pool| {
        let mut transaction = pool.begin().await?;
        let Options { change: ChangeArguments { card, reason }, used, refund } = options;
        let card = card.find(&mut transaction).await?;
        let void = Void { card_id: card.id, reason, used: *used, refund: refund.clone() };
        let outcome = void.run(&mut transaction, &author()).await?;
        transaction.commit().await?;
        let number = card.number.unwrap_or_default();
        let text = match &outcome {
            VoidOutcome::AlreadyVoided { voided_on } => {
                let hint = match refund {
                    Some(_) => format!("\n--refund has no effect now: `mortise card show {number}` shows the refunds."),
                    None => String::new(),
                };
                format!("The card {number} was voided on {voided_on}.{hint}")
            }
            VoidOutcome::Voided { refunds, balance_removed, mails } => {
                let balance = balance_removed.to_plain_string();
                let mut lines = vec![format!("The card {number} is void. The balance {balance} was removed.")];
                lines.extend(refunds.iter().map(describe_refund));
                if refunds.is_empty() {
                    lines.push("Nothing was refunded.".to_owned());
                }
                if !mails.is_empty() {
                    lines.push(format!("Taken out of e-mails that were not sent: {}.", mails.len()));
                }
                lines.join("\n")
            }
        };
        Ok(Report::new(text, json!({ "card": card.id, "number": number, "outcome": outcome })))
    })
    .await
}

fn describe_refund(refund: &RefundRow) -> String {
    let RefundRow { reverses, amount, tax, currency, tax_included } = refund;
    let amount = amount.to_plain_string();
    let tax = if *tax_included { "tax included".to_owned() } else { format!("tax {}", tax.to_plain_string()) };
    format!("Refund of the payment {reverses}: {amount} {currency}, {tax}.")
}
