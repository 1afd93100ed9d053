//! `mortise backup`: writes a backup of the database, and checks it.

use std::path::PathBuf;

use clap::Args;
use indicatif::HumanBytes;
use serde_json::json;

use super::database::{client_environment, with_any_schema};
use super::output_file::OutputFile;
use super::{CommandError, Report};
use crate::back_office::backup::{self, Outcome};
use crate::config::Config;

/// The file.
#[derive(Debug, Args)]
pub struct Options {
    /// The file to create, readable only by you: it contains keys and PINs
    file: PathBuf,
}

/// Runs the command.
pub async fn run(options: &Options, config: &Config) -> Result<Report, CommandError> {
    let output = OutputFile::create(&options.file)?;
    with_any_schema(config, async |pool| {
        let outcome = backup::back_up(pool, &client_environment(config)?, output.file()).await?;
        let bytes = output.file().metadata()?.len();
        output.finish()?;
        // A standby, and a schema of an older version, do not record it.
        let record = backup::record(pool, &std::path::absolute(&options.file)?, bytes).await;
        let not_recorded =
            record.err().map(|error| format!("\nIts time was not recorded for `mortise doctor`: {error}"));
        let text = format!(
            "{} has {}: {}.\n{}{}",
            options.file.display(),
            HumanBytes(bytes),
            describe_rows(&outcome),
            describe_checks(&outcome),
            not_recorded.unwrap_or_default()
        );
        let is_correct = outcome.problems.is_empty();
        let json = json!({ "file": options.file, "bytes": bytes, "checked": outcome });
        Ok(Report::new(text, json).fail_unless(is_correct))
    })
    .await
}

/// Returns the numbers of rows, in words.
pub(super) fn describe_rows(outcome: &Outcome) -> String {
    let Outcome { tables, rows, cards, payments, users, .. } = outcome;
    format!("{rows} rows of {tables} tables, with {cards} cards, {payments} payments and {users} users")
}

/// Returns the result of the checks, in words.
pub(super) fn describe_checks(outcome: &Outcome) -> String {
    if outcome.missing_migrations > 0 {
        let missing = outcome.missing_migrations;
        return format!(
            "Checked: each row is there. The database is of an older version ({missing} migrations are missing): stock \
             and ledger can be checked after `mortise migrate`."
        );
    }
    if outcome.problems.is_empty() {
        return "Checked: each row is there; the schema, the stock and the ledger are correct.".to_owned();
    }
    let problems: Vec<String> = outcome.problems.iter().map(|problem| format!("PROBLEM {problem}")).collect();
    format!(
        "Each row is there, but the data has problems; `mortise doctor` advises what to do:\n{}",
        problems.join("\n")
    )
}
