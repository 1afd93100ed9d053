//! `mortise cards export`: writes the cards of a group as CSV.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use serde_json::json;
use sqlx::PgPool;

use crate::cli::database::{begin_read_only, with_database};
use crate::cli::output_file::{OutputFile, csv_to_io_error};
use crate::cli::{CommandError, Report, author, progress_bar};
use crate::config::Config;
use crate::money::Money;
use crate::store::change_log::{Change, Target, What};
use crate::store::pages::{BEGIN_NEXT_PAGE, BEGIN_UNNUMBERED, PAGE_ROWS};

/// The cards to export, and the file.
#[derive(Debug, Args)]
pub struct Options {
    /// The id of the card group, as in `mortise group list`
    #[arg(long, value_name = "ID")]
    group: i32,
    /// The file to create, readable only by you [default: standard output]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Only the cards that can be sold
    #[arg(long)]
    free: bool,
    /// Only the cards with this batch number
    #[arg(long, value_name = "TEXT")]
    batch_number: Option<String>,
}

/// The header line. It is written even if no card follows.
const HEADINGS: [&str; 9] = ["number", "pin", "balance", "sold", "batch_number", "language", "name", "callerid", "id"];

/// A card as a CSV record.
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

/// Runs the command. Cards are streamed: the memory used does not depend on their number.
pub(super) async fn run(options: &Options, config: &Config) -> Result<Report, CommandError> {
    let Some(path) = &options.output else {
        let result = with_database(config, async |pool| export(pool, options, io::stdout().lock()).await).await;
        return match result {
            // The reader closed the pipe, like `head`: not an error.
            Err(CommandError::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Report::empty()),
            result => result.map(|_| Report::empty()),
        };
    };
    let output = OutputFile::create(path)?;
    let cards = with_database(config, async |pool| export(pool, options, output.file()).await).await?;
    output.finish()?;
    let text = format!("{cards} cards were written to {}.", path.display());
    Ok(Report::new(text, json!({ "group": options.group, "cards": cards, "output": path })))
}

async fn export(pool: &PgPool, options: &Options, output: impl Write) -> Result<u64, CommandError> {
    // The row of the change log is committed before the first PIN is written.
    record_export(pool, options).await?;
    let bar = progress_bar(count_cards(pool, options.group).await?, "writing cards");
    let mut csv = csv::WriterBuilder::new().has_headers(false).from_writer(BufWriter::new(output));
    csv.write_record(HEADINGS).map_err(csv_to_io_error)?;
    let mut exported = 0;
    let mut position = Some(Position::AfterNumber(None));
    // No statement runs while the output blocks: an old snapshot would slow down sales.
    while let Some(start) = position {
        let cards = read_page(pool, options, &start).await?;
        for card in &cards {
            csv.serialize(card).map_err(csv_to_io_error)?;
            exported += 1;
            bar.inc(1);
        }
        position = next_position(&start, cards);
    }
    csv.flush()?;
    bar.finish_and_clear();
    Ok(exported)
}

async fn count_cards(pool: &PgPool, group: i32) -> sqlx::Result<u64> {
    let mut transaction = begin_read_only(pool).await?;
    let count = sqlx::query_scalar!(
        r#"select count(*) as "count!" from cards where cardgroup_id = $1 and hidden = 0 and quarantined_at is null"#,
        group
    );
    let count = count.fetch_one(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(u64::try_from(count).unwrap_or(0))
}

/// Where a page starts. Cards without a number follow those with one.
enum Position {
    /// After this number; `None`: at the first card.
    AfterNumber(Option<String>),
    /// After the card that has no number and this id.
    AfterUnnumbered(i64),
}

/// Returns where the page after `cards` starts. `None`: no cards are left.
fn next_position(start: &Position, mut cards: Vec<ExportedCard>) -> Option<Position> {
    let is_full = i64::try_from(cards.len()) == Ok(PAGE_ROWS);
    match (start, cards.pop().filter(|_| is_full)) {
        (Position::AfterNumber(_), Some(last)) => Some(Position::AfterNumber(last.number)),
        (Position::AfterNumber(_), None) => Some(Position::AfterUnnumbered(i64::MIN)),
        (Position::AfterUnnumbered(_), Some(last)) => Some(Position::AfterUnnumbered(last.id)),
        (Position::AfterUnnumbered(_), None) => None,
    }
}

async fn read_page(pool: &PgPool, options: &Options, start: &Position) -> sqlx::Result<Vec<ExportedCard>> {
    let (begin, number, id) = match start {
        Position::AfterNumber(number) => (BEGIN_NEXT_PAGE, number.as_deref(), None),
        Position::AfterUnnumbered(id) => (BEGIN_UNNUMBERED, None, Some(*id)),
    };
    let mut transaction = pool.begin_with(begin).await?;
    // `between`, because with an equality the planner could take the index of numbers, which has all groups' cards.
    let cards = sqlx::query_as!(
        ExportedCard,
        r#"select number, pin, coalesce(balance, 0) as "balance!: Money", sold, batch_number, language, name, callerid, id
           from cards c
           where hidden = 0 and quarantined_at is null and (not $2 or is_in_stock(c)) and ($3::text is null or batch_number = $3)
               and ($4::text is null or (cardgroup_id, number) > ($1, $4))
               and case when $5::bigint is null then number is not null else number is null and id > $5 end
               and cardgroup_id between $1 and $1
           order by cardgroup_id, number, case when $5 is not null then id end limit $6"#,
        options.group,
        options.free,
        options.batch_number,
        number,
        id,
        PAGE_ROWS
    )
    .fetch_all(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(cards)
}

async fn record_export(pool: &PgPool, options: &Options) -> Result<(), CommandError> {
    let mut transaction = pool.begin().await?;
    let name = sqlx::query_scalar!("select name from cardgroups where id = $1", options.group);
    let not_found = || {
        let message = format!("there is no card group {}: `mortise group list` shows all", options.group);
        CommandError::NotFound(message)
    };
    let name = name.fetch_optional(&mut *transaction).await?.ok_or_else(not_found)?;
    let after = json!({ "cards": "exported", "batch_number": options.batch_number, "free": options.free });
    let change = Change {
        what: What::CardGroup,
        target: Target::Row { id: options.group.into(), name: &name },
        before: None,
        after: Some(after.to_string()),
    };
    change.record(&mut transaction, &author()).await?;
    transaction.commit().await?;
    Ok(())
}
