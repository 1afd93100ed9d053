//! `mortise cards import`: creates the cards of a CSV file.

use std::fs::File;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::back_office::import::{CardImport, ImportOutcome, Progress};
use crate::cli::database::with_database;
use crate::cli::{CommandError, Report, author, progress_bar};
use crate::config::Config;

/// The file, and the card group that gets its cards.
#[derive(Debug, Args)]
pub struct Options {
    /// The CSV file, in UTF-8. First line: number,pin,balance, and if needed batch_number,serial,language,name
    file: PathBuf,
    /// The id of the card group, as in `mortise group list`
    #[arg(long, value_name = "ID")]
    group: i32,
    /// Only check every line
    #[arg(long)]
    dry_run: bool,
}

/// Runs the command, in one transaction: if a line is refused, nothing is written.
pub(super) async fn run(options: &Options, config: &Config) -> Result<Report, CommandError> {
    let path = options.file.display();
    let file =
        File::open(&options.file).map_err(|error| CommandError::Failed(format!("cannot read {path}: {error}")))?;
    let bar = progress_bar(file.metadata()?.len(), "reading bytes");
    let outcome = with_database(config, async |pool| {
        let mut transaction = pool.begin().await?;
        let import = CardImport {
            source: file,
            group: options.group,
            is_dry_run: options.dry_run,
            batch_number: String::new(),
            lines_max: None,
            hides_used: false,
        };
        let show = |progress| match progress {
            Progress::Read(bytes) => bar.set_position(bytes),
            Progress::Checking => bar.set_prefix("checking"),
            Progress::Created(cards, total) => {
                bar.set_prefix("creating cards");
                bar.set_length(total);
                bar.set_position(cards);
            }
        };
        let outcome = import.run(&mut transaction, &author(), show).await?;
        if outcome.is_accepted() && !options.dry_run {
            transaction.commit().await?;
        }
        bar.finish_and_clear();
        Ok(outcome)
    });
    Ok(report(&outcome.await?, options))
}

fn report(outcome: &ImportOutcome, options: &Options) -> Report {
    let ImportOutcome { lines, created, first, last, problem, refused, refused_count, .. } = outcome;
    let mut text: String =
        refused.iter().map(|refused| format!("line {}: {}\n", refused.line, refused.reason)).collect();
    let unnamed = refused_count - refused.len() as u64;
    if unnamed > 0 {
        text += &format!("… and {unnamed} more\n");
    }
    text += &problem.iter().map(|problem| format!("{problem}\n")).collect::<String>();
    let (first, last) = (first.as_deref().unwrap_or("-"), last.as_deref().unwrap_or("-"));
    text += &match (outcome.is_accepted(), options.dry_run) {
        (true, false) => {
            format!("{created} cards were created in group {}, from {first} to {last}.", options.group)
        }
        (true, true) => format!("Nothing was written (--dry-run). The import would create {lines} cards."),
        (false, _) => format!("Nothing was written. Lines: {lines}, reasons to refuse: {refused_count}."),
    };
    let mut json = json!(outcome);
    json["group"] = options.group.into();
    json["dry_run"] = options.dry_run.into();
    // A terminal could execute control characters.
    let text = text.replace(|char: char| char.is_control() && char != '\n', "\u{fffd}");
    Report::new(text, json).fail_unless(outcome.is_accepted())
}
