//! `mortise cards`: creates cards in bulk, exports them for printing, and checks the stock.

mod check;
mod export;
mod generate;

use clap::Subcommand;

use super::{CommandError, Report};
use crate::config::Config;

/// Subcommands of `mortise cards`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create cards in one transaction, with consecutive numbers and random PINs
    Generate(generate::Options),
    /// Write the cards of a group as CSV, with their PINs
    Export(export::Options),
    /// Compare the stock with the cards, and repair it
    Check(check::Options),
}

/// Runs the command.
pub async fn run(command: &Command, config: &Config) -> Result<Report, CommandError> {
    match command {
        Command::Generate(options) => generate::run(options, config).await,
        Command::Export(options) => export::run(options, config).await,
        Command::Check(options) => check::run(options, config).await,
    }
}
