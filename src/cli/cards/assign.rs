//! `mortise cards assign` and `mortise cards release`: the cards of distributors.

use clap::Args;
use serde_json::json;

use super::select::{SelectionOptions, describe_changed, describe_counts};
use crate::back_office::withhold::{Assignment, Released, release_cards};
use crate::cli::confirm::confirm;
use crate::cli::database::with_database;
use crate::cli::{CommandError, Report, author, find_user};
use crate::config::Config;

/// The cards, and the distributor who gets them.
#[derive(Debug, Args)]
pub struct AssignOptions {
    #[command(flatten)]
    selection: SelectionOptions,
    /// A user of the type user, of the owner of the card group
    #[arg(long, value_name = "USER")]
    distributor: String,
    /// The API can still sell the cards
    #[arg(long)]
    keep_in_stock: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// The cards to take back.
#[derive(Debug, Args)]
pub struct ReleaseOptions {
    #[command(flatten)]
    selection: SelectionOptions,
    /// Only the cards of this distributor
    #[arg(long, value_name = "USER")]
    distributor: Option<String>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// Gives the selected cards in stock to a distributor, in one transaction after the question.
pub(super) async fn assign(options: &AssignOptions, config: &Config) -> Result<Report, CommandError> {
    let selection = options.selection.read()?;
    with_database(config, async |pool| {
        let distributor = find_user(pool, &options.distributor).await?;
        let mut transaction = pool.begin().await?;
        let counts = selection.count(&mut transaction).await?;
        transaction.rollback().await?;
        let selected = describe_counts(&counts);
        let question =
            format!("Give the free cards of {} to {}: {selected}?", selection.describe(), distributor.username);
        confirm(&question, options.yes).await?;
        let mut transaction = pool.begin().await?;
        let keep_in_stock = options.keep_in_stock;
        let assignment =
            Assignment { selection: &selection, distributor_id: distributor.id, keep_in_stock, count: None };
        let changed = assignment.run(&mut transaction, &author()).await?;
        transaction.commit().await?;
        let text = describe_changed(&format!("assigned to {}", distributor.username), &changed);
        Ok(Report::new(text, json!({ "selected": counts, "changed": changed, "distributor": distributor.id })))
    })
    .await
}

/// Takes the selected unsold, unused cards back, in one transaction after the question.
pub(super) async fn release(options: &ReleaseOptions, config: &Config) -> Result<Report, CommandError> {
    let selection = options.selection.read()?;
    with_database(config, async |pool| {
        let distributor = match &options.distributor {
            Some(name) => Some(find_user(pool, name).await?.id),
            None => None,
        };
        let mut transaction = pool.begin().await?;
        let counts = selection.count(&mut transaction).await?;
        transaction.rollback().await?;
        let selected = describe_counts(&counts);
        let question = format!("Take the unsold, unused cards of {} back: {selected}?", selection.describe());
        confirm(&question, options.yes).await?;
        let mut transaction = pool.begin().await?;
        let Released { changed, used } = release_cards(&mut transaction, &selection, distributor, &author()).await?;
        transaction.commit().await?;
        let mut text = describe_changed("released", &changed);
        if used > 0 {
            text += &format!("\n{used} used, not released.");
        }
        Ok(Report::new(text, json!({ "selected": counts, "changed": changed, "used": used })))
    })
    .await
}
