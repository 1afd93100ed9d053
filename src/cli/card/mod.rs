//! `mortise card`: shows one card, voids its sale, replaces it, blocks it, decides about its quarantine.

mod block;
mod reissue;
mod settle;
mod show;
mod void;

use clap::{Args, Subcommand};
use sqlx::PgConnection;

use super::{CommandError, Report};
use crate::back_office::lookup::{CardKey, FoundCard, find_card};
use crate::back_office::parse_reason;
use crate::config::Config;

/// Subcommands of `mortise card`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show a card: its state in words, payments, history and e-mails
    Show(show::Options),
    /// Undo the sale of a card: refund its payments and retire it
    Void(void::Options),
    /// Replace a sold card by another one of its group, with the same balance
    Reissue(reissue::Options),
    /// Block a card: it can neither be used nor sold
    Block(CardArgument),
    /// Unblock a card
    Unblock(CardArgument),
    /// Decide about a card that the import has quarantined
    Settle(settle::Options),
}

/// Runs the command.
pub async fn run(command: &Command, config: &Config) -> Result<Report, CommandError> {
    match command {
        Command::Show(options) => show::run(options, config).await,
        Command::Void(options) => void::run(options, config).await,
        Command::Reissue(options) => reissue::run(options, config).await,
        Command::Block(card) => block::run(card, true, config).await,
        Command::Unblock(card) => block::run(card, false, config).await,
        Command::Settle(options) => settle::run(options, config).await,
    }
}

/// The card to change.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct CardArgument {
    /// The card number
    number: Option<String>,
    /// The card's id, if several cards have the number
    #[arg(long, value_name = "ID")]
    id: Option<i64>,
}

impl CardArgument {
    async fn find(&self, connection: &mut PgConnection) -> Result<FoundCard, CommandError> {
        let key = match (&self.number, self.id) {
            (_, Some(id)) => CardKey::Id(id),
            (number, None) => CardKey::Number(number.clone().unwrap_or_default()),
        };
        Ok(find_card(connection, &key).await?)
    }
}

/// The card to change, and the reason.
#[derive(Debug, Args)]
pub struct ChangeArguments {
    #[command(flatten)]
    card: CardArgument,
    /// Why; the change log gets it
    #[arg(long, value_name = "TEXT", value_parser = parse_reason)]
    reason: String,
}
