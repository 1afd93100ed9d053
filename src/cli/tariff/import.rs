//! `mortise tariff import`: adds the rates of a file to a tariff, or changes their prices.

use std::fs::File;
use std::io::{self, Seek};
use std::path::{Path, PathBuf};

use clap::Args;

use super::csv_lines::CsvLines;
use super::{RETAIL_HEADINGS, WHOLESALE_HEADINGS, import_retail, import_wholesale};
use crate::cli::{CommandError, Report};
use crate::config::Config;
use crate::spool::Spooled;

/// The file, and the tariff that gets its rates.
#[derive(Debug, Args)]
pub struct Options {
    /// The file: CSV with wholesale rates or retail prices, or an XML document as for tariff_retail_import
    file: PathBuf,
    /// The id of the tariff, as in `mortise tariff list`. An XML document names its tariff itself
    #[arg(long, value_name = "ID")]
    tariff: Option<i64>,
    /// Only check every line and count the changes
    #[arg(long)]
    dry_run: bool,
}

/// What a file contains.
enum Content {
    WholesaleCsv,
    RetailCsv,
    RetailXml,
}

/// Runs the command, in one transaction: if a line is refused, nothing is written.
pub(super) async fn run(options: &Options, config: &Config) -> Result<Report, CommandError> {
    let path = options.file.display();
    let read_error = |error: io::Error| CommandError::Failed(format!("cannot read {path}: {error}"));
    let file = open(&options.file).map_err(read_error)?;
    let bytes = file.metadata().map_err(read_error)?.len();
    let file = Spooled::from(file);
    match (detect(&file).map_err(read_error)?, options.tariff) {
        (Some(Content::WholesaleCsv), Some(tariff)) => {
            import_wholesale::run(&file, bytes, tariff, options.dry_run, config).await
        }
        (Some(Content::RetailCsv), Some(tariff)) => {
            import_retail::run(file, bytes, Some(tariff), options.dry_run, config).await
        }
        (Some(Content::RetailXml), None) => import_retail::run(file, bytes, None, options.dry_run, config).await,
        (Some(Content::RetailXml), Some(_)) => {
            Err(CommandError::Usage("an XML document names its tariff itself: leave out --tariff".to_owned()))
        }
        (Some(_), None) => Err(CommandError::Usage("a CSV file needs the option --tariff".to_owned())),
        (None, _) => Err(CommandError::Failed(format!(
            "the first line must be {}, or {}, or the file must be an XML document",
            WHOLESALE_HEADINGS.join(","),
            RETAIL_HEADINGS.join(",")
        ))),
    }
}

/// Opens a file. Data from a pipe is copied, because it is read several times.
fn open(path: &Path) -> io::Result<File> {
    let mut file = File::open(path)?;
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    let mut copy = tempfile::tempfile()?;
    io::copy(&mut file, &mut copy)?;
    copy.rewind()?;
    Ok(copy)
}

/// Finds out what a file contains. `None`: nothing that can be imported.
fn detect(file: &Spooled) -> io::Result<Option<Content>> {
    let mut reader = file.reader();
    let start = reader.fill_buf()?;
    let start = start.strip_prefix("\u{feff}".as_bytes()).unwrap_or(start).trim_ascii_start();
    if start.starts_with(b"<") {
        return Ok(Some(Content::RetailXml));
    }
    let (_, headings) = CsvLines::begin(file.reader())?;
    Ok(match headings {
        headings if headings == WHOLESALE_HEADINGS => Some(Content::WholesaleCsv),
        headings if headings == RETAIL_HEADINGS => Some(Content::RetailCsv),
        _ => None,
    })
}
