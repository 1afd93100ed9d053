//! `mortise cards`: cards made by the thousand, and handed to whoever prints them.

mod export;
mod generate;

use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};

use super::{CommandError, Report};
use crate::config::Config;

/// What to do with cards.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make cards, all or none: new numbers one after the other, random PINs of the group's PIN length
    Generate(generate::Options),
    /// Write a group's cards as CSV, PINs included
    Export(export::Options),
}

/// Does it.
pub async fn run(command: &Command, config: &Config) -> Result<Report, CommandError> {
    match command {
        Command::Generate(options) => generate::run(options, config).await,
        Command::Export(options) => export::run(options, config).await,
    }
}

/// A bar on standard error, where that is a terminal.
fn progress_bar(length: u64, what: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(length);
    // A template that can't be read leaves the usual bar.
    if let Ok(style) = ProgressStyle::with_template("{prefix} {wide_bar} {human_pos}/{human_len}, {eta} left") {
        bar.set_style(style);
    }
    bar.with_prefix(what)
}
