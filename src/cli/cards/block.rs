//! `mortise cards block` and `mortise cards unblock`.

use clap::Args;
use serde_json::json;

use super::select::{SelectionOptions, describe_changed, describe_counts};
use crate::back_office::withhold::block_cards;
use crate::cli::confirm::confirm;
use crate::cli::database::with_database;
use crate::cli::{CommandError, Report, author};
use crate::config::Config;

/// The cards to block or unblock.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    selection: SelectionOptions,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// Runs the command, in one transaction after the question.
pub(super) async fn run(options: &Options, block: bool, config: &Config) -> Result<Report, CommandError> {
    let selection = options.selection.read()?;
    with_database(config, async |pool| {
        let mut transaction = pool.begin().await?;
        let counts = selection.count(&mut transaction).await?;
        transaction.rollback().await?;
        let verb = if block { "Block" } else { "Unblock" };
        confirm(&format!("{verb} {}: {}?", selection.describe(), describe_counts(&counts)), options.yes).await?;
        let mut transaction = pool.begin().await?;
        let changed = block_cards(&mut transaction, &selection, block, &author()).await?;
        transaction.commit().await?;
        let text = describe_changed(if block { "blocked" } else { "unblocked" }, &changed);
        Ok(Report::new(text, json!({ "selected": counts, "changed": changed, "blocked": block })))
    })
    .await
}
