//! `mortise restore`: restores a backup into an empty database, and checks the result.

use std::fs::File;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::backup::{describe_checks, describe_rows};
use super::database::{client_environment, with_new_or_existing};
use super::{CommandError, Report};
use crate::back_office::backup;
use crate::config::Config;

/// The file.
#[derive(Debug, Args)]
pub struct Options {
    /// The file of `mortise backup`, or of pg_dump --format=custom
    file: PathBuf,
}

/// Runs the command.
pub async fn run(options: &Options, config: &Config) -> Result<Report, CommandError> {
    let open_error = |error| CommandError::failed(format!("cannot open {}: {error}", options.file.display()));
    let file = File::open(&options.file).map_err(open_error)?;
    with_new_or_existing(config, async |pool| {
        let outcome = backup::restore(pool, &client_environment(config)?, &file).await?;
        let mails = match outcome.waiting_mails {
            0 => String::new(),
            count => format!("\nE-mails that a server sends as soon as it starts: {count} (`mortise mail list`)."),
        };
        let text = format!(
            "{} was restored: {}.\n{}{mails}",
            options.file.display(),
            describe_rows(&outcome),
            describe_checks(&outcome)
        );
        let is_correct = outcome.problems.is_empty();
        Ok(Report::new(text, json!({ "file": options.file, "checked": outcome })).fail_unless(is_correct))
    })
    .await
}
