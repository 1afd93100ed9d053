//! `mortise cards export`.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use futures_util::TryStreamExt;
use serde::Serialize;
use serde_json::json;
use sqlx::PgPool;

use super::progress_bar;
use crate::cli::database::{begin_read_only, with_database};
use crate::cli::{AuditEntry, CommandError, Report};
use crate::config::Config;
use crate::money::Money;

/// Which cards, and where to.
#[derive(Debug, Args)]
pub struct Options {
    /// The card group's id, as `mortise group list` shows it
    #[arg(long, value_name = "ID")]
    group: i32,
    /// A new file, which only you can read [default: standard output]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Only the cards that can be sold
    #[arg(long)]
    free: bool,
    /// Only the cards of this delivery
    #[arg(long, value_name = "TEXT")]
    batch_number: Option<String>,
}

/// The first line, there also where no other is.
const HEADINGS: [&str; 9] = ["number", "pin", "balance", "sold", "batch_number", "language", "name", "callerid", "id"];

/// A line of the file.
#[derive(Debug, Serialize)]
struct ExportedCard {
    number: Option<String>,
    pin: Option<String>,
    balance: Money,
    sold: i16,
    batch_number: Option<String>,
    language: Option<String>,
    name: Option<String>,
    callerid: Option<String>,
    id: i64,
}

/// Writes them as they come: however many, little memory is used.
pub(super) async fn run(options: &Options, config: &Config) -> Result<Report, CommandError> {
    let Some(path) = &options.output else {
        let written = with_database(config, async |pool| export(pool, options, io::stdout().lock()).await).await;
        return match written {
            // Whoever reads it has seen enough.
            Err(CommandError::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Report::empty()),
            written => written.map(|_| Report::empty()),
        };
    };
    let cannot = |error: io::Error| CommandError::Failed(format!("cannot make {}: {error}", path.display()));
    // One that is there already may be a delivery that is needed yet.
    if path.symlink_metadata().is_ok() {
        return Err(cannot(rustix::io::Errno::EXIST.into()));
    }
    // By another name until all is written: half a file would be taken for a whole one.
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file = tempfile::Builder::new().prefix(".cards-").tempfile_in(directory).map_err(cannot)?;
    let cards = with_database(config, async |pool| export(pool, options, file.as_file()).await).await?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path).map_err(|error| cannot(error.error))?;
    let text = format!("{cards} cards were written to {}.", path.display());
    Ok(Report::new(text, json!({ "group": options.group, "cards": cards, "output": path })))
}

async fn export(pool: &PgPool, options: &Options, to: impl Write) -> Result<u64, CommandError> {
    // Whoever has seen the PINs stands in the audit trail before they are seen.
    audit_export(pool, options).await?;
    let mut transaction = begin_read_only(pool).await?;
    let count = sqlx::query_scalar!(
        r#"select count(*) as "count!" from cards where cardgroup_id = $1 and hidden = 0"#,
        options.group
    );
    let bar = progress_bar(u64::try_from(count.fetch_one(&mut *transaction).await?).unwrap_or(0), "writing cards");
    let mut csv = csv::WriterBuilder::new().has_headers(false).from_writer(BufWriter::new(to));
    csv.write_record(HEADINGS).map_err(csv_to_io_error)?;
    let mut cards = sqlx::query_as!(
        ExportedCard,
        r#"select number, pin, coalesce(balance, 0) as "balance!: Money", sold, batch_number, language, name, callerid, id
           from cards c
           where cardgroup_id = $1 and hidden = 0 and (not $2 or is_in_stock(c)) and ($3::text is null or batch_number = $3)
           order by number collate "C""#,
        options.group,
        options.free,
        options.batch_number
    )
    .fetch(&mut *transaction);
    let mut written = 0;
    while let Some(card) = cards.try_next().await? {
        csv.serialize(card).map_err(csv_to_io_error)?;
        written += 1;
        bar.inc(1);
    }
    csv.flush()?;
    bar.finish_and_clear();
    Ok(written)
}

fn csv_to_io_error(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        _ => io::Error::other("a card can't be written as CSV"),
    }
}

async fn audit_export(pool: &PgPool, options: &Options) -> Result<(), CommandError> {
    let mut change = pool.begin().await?;
    let known = sqlx::query!("select id from cardgroups where id = $1", options.group).fetch_optional(&mut *change);
    if known.await?.is_none() {
        let words = format!("there is no card group {}: `mortise group list` shows all", options.group);
        return Err(CommandError::NotFound(words));
    }
    let deed = AuditEntry {
        action: "cards_exported",
        target_type: "Cardgroup",
        target_id: options.group.into(),
        data: options.batch_number.as_deref().unwrap_or_default(),
        ..AuditEntry::default()
    };
    deed.record(&mut change).await?;
    change.commit().await?;
    Ok(())
}
