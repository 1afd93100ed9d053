//! `mortise cards`: creates cards in bulk, exports them for printing, gives them to distributors, blocks them, and
//! checks the stock.

mod assign;
mod block;
mod check;
mod export;
mod generate;
mod import;
mod list;
mod select;

use clap::Subcommand;

use super::{CommandError, Report};
use crate::config::Config;

/// Subcommands of `mortise cards`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create cards in one transaction, with consecutive numbers and random PINs
    Generate(generate::Options),
    /// Create the cards of a CSV file in one transaction
    Import(import::Options),
    /// Write cards with their PINs: as CSV, as JSON, or as sheets to print
    Export(export::Options),
    /// List the cards that wait for a decision after an import of MOR's database
    List(list::Options),
    /// Block cards: they can neither be used nor sold
    Block(block::Options),
    /// Unblock cards
    Unblock(block::Options),
    /// Give cards in stock to a distributor: the API does not sell them any more
    Assign(assign::AssignOptions),
    /// Take unsold cards back from a distributor into stock
    Release(assign::ReleaseOptions),
    /// Compare the stock with the cards, and repair it
    Check(check::Options),
}

/// Runs the command.
pub async fn run(command: &Command, config: &Config) -> Result<Report, CommandError> {
    match command {
        Command::Generate(options) => generate::run(options, config).await,
        Command::Import(options) => import::run(options, config).await,
        Command::Export(options) => export::run(options, config).await,
        Command::List(options) => list::run(options, config).await,
        Command::Block(options) => block::run(options, true, config).await,
        Command::Unblock(options) => block::run(options, false, config).await,
        Command::Assign(options) => assign::assign(options, config).await,
        Command::Release(options) => assign::release(options, config).await,
        Command::Check(options) => check::run(options, config).await,
    }
}
