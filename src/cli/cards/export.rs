//! `mortise cards export`: writes cards as CSV, as JSON, or as sheets to print.

use std::io;
use std::path::PathBuf;
use std::pin::pin;

use clap::{Args, ValueEnum};
use futures_util::StreamExt;
use serde_json::json;

use super::select::SelectionOptions;
use crate::back_office::export::{CardExport, ExportError, Format};
use crate::cli::database::with_database;
use crate::cli::output_file::OutputFile;
use crate::cli::{CommandError, Report, author, progress_bar};
use crate::config::Config;

/// The cards to export, and the file.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    selection: SelectionOptions,
    /// The file to create, readable only by you [default: standard output]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Only the cards that can be sold
    #[arg(long)]
    free: bool,
    /// csv: for spreadsheets; json: for programs; html: sheets to print
    #[arg(long, value_enum, default_value_t = FormatName::Csv)]
    format: FormatName,
    /// The template of the sheets, instead of the built-in one
    #[arg(long, value_name = "FILE")]
    template: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FormatName {
    Csv,
    Json,
    Html,
}

impl From<ExportError> for CommandError {
    fn from(error: ExportError) -> Self {
        match error {
            ExportError::BackOffice(error) => error.into(),
            ExportError::Io(error) => error.into(),
            error => Self::Usage(error.to_string()),
        }
    }
}

/// Runs the command.
pub(super) async fn run(options: &Options, config: &Config) -> Result<Report, CommandError> {
    let export = CardExport { selection: options.selection.read()?, free_only: options.free };
    let format = match options.format {
        FormatName::Html => Format::html(options.template.as_deref())?,
        _ if options.template.is_some() => {
            return Err(CommandError::Usage("--template needs --format html".to_owned()));
        }
        FormatName::Csv => Format::Csv,
        FormatName::Json => Format::Json,
    };
    let Some(path) = &options.output else {
        let result = write(export, format, io::stdout().lock(), config).await;
        return match result {
            // The reader closed the pipe, like `head`: not an error.
            Err(CommandError::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Report::empty()),
            result => result.map(|_| Report::empty()),
        };
    };
    let output = OutputFile::create(path)?;
    let group = export.selection.group;
    let cards = write(export, format, output.file(), config).await?;
    output.finish()?;
    let text = format!("{cards} cards were written to {}.", path.display());
    Ok(Report::new(text, json!({ "group": group, "cards": cards, "output": path })))
}

async fn write(
    export: CardExport,
    format: Format,
    mut output: impl io::Write,
    config: &Config,
) -> Result<u64, CommandError> {
    with_database(config, async |pool| {
        let started = export.start(pool, format, &author()).await?;
        let bar = progress_bar(started.selected_cards(), "writing cards");
        let mut chunks = pin!(started.stream());
        let mut written = 0;
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk?;
            output.write_all(&chunk.bytes)?;
            written += chunk.cards;
            bar.set_position(written);
        }
        output.flush()?;
        bar.finish_and_clear();
        Ok(written)
    })
    .await
}
