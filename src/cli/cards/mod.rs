//! `mortise cards`: creates cards in bulk, exports them for printing, and checks the stock.

mod check;
mod export;
mod generate;

use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};

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

/// Creates a progress bar on standard error, visible only if that is a terminal.
fn progress_bar(length: u64, label: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(length);
    // An invalid template leaves the default style.
    if let Ok(style) = ProgressStyle::with_template("{prefix} {wide_bar} {human_pos}/{human_len}, {eta} left") {
        bar.set_style(style);
    }
    bar.with_prefix(label)
}
