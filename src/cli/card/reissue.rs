//! `mortise card reissue`: replaces a sold card by another one.

use clap::Args;
use serde_json::json;

use super::ChangeArguments;
use crate::back_office::details::reveal_pin;
use crate::back_office::reissue::Reissue;
use crate::cli::database::with_database;
use crate::cli::{CommandError, Report, author};
use crate::config::Config;

/// The old and the new card.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    change: ChangeArguments,
    /// The new card, a free one of the same group [default: the next free card]
    #[arg(long, value_name = "NUMBER")]
    to: Option<String>,
    /// Show the PIN of the new card, and write a row to the change log
    #[arg(long)]
    show_pin: bool,
}

/// Runs the command, in one transaction.
pub(super) async fn run(options: &Options, config: &Config) -> Result<Report, CommandError> {
    with_database(config, async |pool| {
        let mut transaction = pool.begin().await?;
        let ChangeArguments { card, reason } = &options.change;
        let old = card.find(&mut transaction).await?;
        let reissue = Reissue { card_id: old.id, reason, to: options.to.as_deref() };
        let new = reissue.run(&mut transaction, &author()).await?;
        let pin = match options.show_pin {
            true => reveal_pin(&mut transaction, new.id, &author()).await?.pin,
            false => None,
        };
        transaction.commit().await?;
        let old_number = old.number.unwrap_or_default();
        let verb = if new.already_replaced { "was replaced before" } else { "is replaced" };
        let (number, balance) = (&new.number, new.balance.to_plain_string());
        let mut text = format!("The card {old_number} {verb} by the card {number}, with the balance {balance}.");
        let mut json = json!({ "old_card": old.id, "old_number": old_number, "new_card": new, "mails": new.mails });
        if !new.mails.is_empty() {
            let mails: Vec<String> = new.mails.iter().map(i64::to_string).collect();
            text += &format!("\nThe old card was taken out of e-mails that were not sent: {}.", mails.join(", "));
        }
        match pin {
            Some(pin) => {
                text += &format!("\nIts PIN is {}.", pin.expose());
                json["new_card"]["pin"] = json!(pin);
            }
            None => text += &format!("\nIts PIN: `mortise card show {number} --show-pin`."),
        }
        Ok(Report::new(text, json))
    })
    .await
}
