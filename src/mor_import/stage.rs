//! Copies the rows of one MySQL snapshot into the schema `mor_import`, as they are: numbers as numbers, everything else
//! as text. The memory that this needs does not depend on the number of rows.

use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use sqlx::PgConnection;

use crate::mor_import::charset;
use crate::mor_import::encode;
use crate::mor_import::error::ImportError;
use crate::mor_import::inspect::{Inspection, Table};
use crate::mor_import::progress::Event;
use crate::mor_import::secret;
use crate::mor_import::source::{self, Source};
use crate::mor_import::target::{self, Kind, execute, quote};
use crate::mor_import::time_zone::TimeZone;

/// Without them, PostgreSQL expects half a percent of the cards to be free: the rules about cards, `cards.sql`, would
/// read the card groups once for each card, and sort all cards.
const CARD_STATISTICS: &str = "
    create statistics mor_import.cards_sold on coalesce(sold, 0) from mor_import.cards;
    create statistics mor_import.cards_hidden on coalesce(hidden, 0) from mor_import.cards";
/// Rows of one query and one `copy`, unless they are read slowly.
const RANGE_LEN: u64 = 50_000;
/// The age of a snapshot that needs the operator's consent.
const AGE_MAX: Duration = Duration::from_hours(4);
/// In bytes. A larger part of a `copy` is sent.
const BUFFER_LEN: usize = 256 * 1024;

/// PostgreSQL's code of an error.
const INSUFFICIENT_PRIVILEGE: &str = "42501";

/// A cell that cannot be stored as it is.
struct AlteredCell {
    id: i64,
    column: String,
    /// 0x00 is written as `\0`.
    original: String,
}

/// Creates the schema `mor_import` with empty tables. An older one is dropped.
pub async fn create_schema(
    target: &mut PgConnection,
    inspection: &Inspection,
    zone: &TimeZone,
) -> Result<(), ImportError> {
    let created = execute(target, "drop schema if exists mor_import cascade; create schema mor_import").await;
    created.map_err(|error| {
        let code = error.as_database_error().and_then(|error| error.code());
        if code.is_none_or(|code| code != INSUFFICIENT_PRIVILEGE) {
            return ImportError::from(error);
        }
        ImportError::refused(format!(
            "the role may not create the schema mor_import: run `grant create on database` for it, or use the owner of \
             the database ({error})"
        ))
    })?;
    execute(target, zone.functions()).await?;
    execute(target, include_str!("staging.sql")).await?;
    for name in target::TABLES {
        // A table that MOR lacks is empty here too: the rules need not know.
        let columns = match inspection.tables.iter().find(|table| table.name == name) {
            Some(table) => table.columns.iter().map(|column| column.target.clone()).collect(),
            None => target::columns(target, name).await?,
        };
        if columns.is_empty() {
            continue;
        }
        let definitions: Vec<String> = columns
            .iter()
            .map(|column| {
                let type_name = match column.kind {
                    Kind::Integer => "bigint",
                    Kind::Numeric => "numeric",
                    Kind::Text | Kind::Timestamp | Kind::Time => "text collate \"C\"",
                };
                let default = match (&column.default, column.kind) {
                    (None, _) => String::new(),
                    // An expression such as now() is read when the table is created.
                    (Some(default), Kind::Timestamp) => {
                        format!(" default to_char({default}, 'YYYY-MM-DD HH24:MI:SS')")
                    }
                    (Some(default), _) => format!(" default {default}"),
                };
                format!("{} {type_name}{default}", quote(&column.name))
            })
            .collect();
        execute(target, format!("create unlogged table mor_import.{name} ({})", definitions.join(", "))).await?;
    }
    Ok(())
}

/// How the rows are read.
#[derive(Debug, Clone, Default)]
pub struct StageOptions {
    /// Rows of MOR that are read in a second at most.
    pub rows_per_second_max: Option<u32>,
    /// Whether a snapshot may get older than four hours.
    pub accepts_old_snapshot: bool,
    /// Tables whose texts are UTF-8 in latin1.
    pub charset_repair: Vec<String>,
}

/// Says how old the snapshot will get if the rows are read slowly.
///
/// # Errors
///
/// If it would get too old.
pub fn check_age(inspection: &Inspection, options: &StageOptions) -> Result<Option<String>, ImportError> {
    let Some(rows_per_second) = options.rows_per_second_max else { return Ok(None) };
    let rows: u64 = inspection.tables.iter().map(|table| table.rows_estimated).sum();
    let age = Duration::from_secs(rows / u64::from(rows_per_second.max(1)));
    let text = format!("the snapshot will be about {} old when its last row is read", humantime::format_duration(age));
    if age > AGE_MAX && !options.accepts_old_snapshot {
        return Err(ImportError::refused(format!(
            "{text}: MOR's server keeps old versions of all rows that change meanwhile. Read faster with a higher \
             --max-rows-per-second, or accept it with --yes"
        )));
    }
    Ok(Some(text))
}

/// Reads all tables. `progress` is told of the rows.
pub async fn stage(
    source: &mut Source,
    target: &mut PgConnection,
    inspection: &Inspection,
    options: &StageOptions,
    mut progress: impl FnMut(Event),
) -> Result<(), ImportError> {
    let mut pace = Pace::start(inspection, options);
    for table in &inspection.tables {
        let mut rows = 0;
        let mut last_id = None;
        loop {
            let range = stage_range(source, target, table, last_id, pace.range_len).await?;
            rows += range.rows;
            pace.wait(range.rows).await;
            progress(Event::Staged {
                table: table.name,
                rows,
                rows_estimated: table.rows_estimated,
                rows_per_second: pace.rows_per_second(),
                seconds_left: pace.seconds_left(),
            });
            if range.rows < pace.range_len {
                break;
            }
            last_id = range.last_id;
        }
        if options.charset_repair.iter().any(|name| name == table.name) {
            charset::repair(target, table).await?;
        }
        if table.name == "cards" {
            execute(target, CARD_STATISTICS).await?;
        }
        execute(target, format!("alter table mor_import.{0} add primary key (id); analyze mor_import.{0}", table.name))
            .await?;
    }
    Ok(())
}

/// How fast the rows are read.
struct Pace {
    started_at: Instant,
    rows: u64,
    rows_estimated: u64,
    rows_per_second_max: Option<u32>,
    /// Rows of one query and one `copy`.
    range_len: u64,
}

impl Pace {
    fn start(inspection: &Inspection, options: &StageOptions) -> Self {
        let range_len = options.rows_per_second_max.map_or(RANGE_LEN, |rows| RANGE_LEN.min(u64::from(rows.max(1))));
        Self {
            started_at: Instant::now(),
            rows: 0,
            rows_estimated: inspection.tables.iter().map(|table| table.rows_estimated).sum(),
            rows_per_second_max: options.rows_per_second_max,
            range_len,
        }
    }

    /// Counts rows, and waits until so many may have been read.
    async fn wait(&mut self, rows: u64) {
        self.rows += rows;
        if let Some(rows_per_second) = self.rows_per_second_max {
            let due = Duration::from_millis(self.rows.saturating_mul(1000) / u64::from(rows_per_second.max(1)));
            tokio::time::sleep(due.saturating_sub(self.started_at.elapsed())).await;
        }
    }

    fn rows_per_second(&self) -> u64 {
        let milliseconds = u64::try_from(self.started_at.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.rows.saturating_mul(1000) / milliseconds.max(1)
    }

    fn seconds_left(&self) -> u64 {
        self.rows_estimated.saturating_sub(self.rows) / self.rows_per_second().max(1)
    }
}

/// The rows of a range, and the highest id.
#[derive(Default)]
struct Range {
    rows: u64,
    last_id: Option<i64>,
}

async fn stage_range(
    source: &mut Source,
    target: &mut PgConnection,
    table: &Table,
    after_id: Option<i64>,
    range_len: u64,
) -> Result<Range, ImportError> {
    let columns: Vec<_> = table.read_columns().collect();
    let (expressions, names): (Vec<&str>, Vec<String>) =
        columns.iter().map(|(column, source)| (*source, quote(&column.target.name))).unzip();
    let id_index = columns.iter().position(|(column, _)| column.target.name == "id").unwrap_or_default();
    let condition = after_id.map_or(String::new(), |id| format!("where id > {id}"));
    let query = format!(
        "select {} from {} {condition} order by id limit {range_len}",
        expressions.join(", "),
        source::quote(table.name)
    );
    let statement = format!("copy mor_import.{} ({}) from stdin with (format binary)", table.name, names.join(", "));

    let mut range = Range { rows: 0, last_id: after_id };
    let mut altered = Vec::new();
    let mut copy = target.copy_in_raw(&statement).await?;
    let mut buffer = Vec::with_capacity(BUFFER_LEN + 64 * 1024);
    encode::start(&mut buffer);
    let mut rows = source.stream(&query);
    while let Some(row) = rows.try_next().await? {
        encode::start_row(&mut buffer, columns.len());
        let id = encode::parse_integer(row.bytes(id_index)?.unwrap_or_default())?;
        for (index, (column, _)) in columns.iter().enumerate() {
            let value = row.bytes(index)?;
            if encode::value(&mut buffer, column.target.kind, value)? {
                let original = String::from_utf8_lossy(value.unwrap_or_default()).replace('\0', "\\0");
                altered.push(AlteredCell { id, column: column.target.name.clone(), original });
            }
        }
        range.rows += 1;
        range.last_id = Some(id);
        if buffer.len() > BUFFER_LEN {
            copy.send(buffer.as_slice()).await?;
            buffer.clear();
        }
    }
    drop(rows);
    encode::end(&mut buffer);
    copy.send(buffer.as_slice()).await?;
    copy.finish().await?;
    record_altered(target, table.name, &altered).await?;
    Ok(range)
}

async fn record_altered(target: &mut PgConnection, table: &str, altered: &[AlteredCell]) -> Result<(), ImportError> {
    if altered.is_empty() {
        return Ok(());
    }
    let ids: Vec<i64> = altered.iter().map(|cell| cell.id).collect();
    let columns: Vec<&str> = altered.iter().map(|cell| cell.column.as_str()).collect();
    let originals: Vec<&str> = altered.iter().map(|cell| cell.original.as_str()).collect();
    sqlx::query(
        r#"insert into mor_import.findings (rule, "table", id, "column", original, value, default_action, is_applied)
           select 'nul_byte', $1, id, name, original,
               case when name = any ($5) then mor_import.digest(original) else original end, 'replaced', true
           from unnest($2::bigint[], $3::text[], $4::text[]) cell (id, name, original)"#,
    )
    .bind(table)
    .bind(ids)
    .bind(columns)
    .bind(originals)
    .bind(secret::columns(table))
    .execute(target)
    .await?;
    Ok(())
}

/// Reads the cards that calls name. MySQL answers from the index alone.
pub async fn stage_called_cards(source: &mut Source, target: &mut PgConnection) -> Result<(), ImportError> {
    let mut copy = target.copy_in_raw("copy mor_import.called_cards (id) from stdin with (format binary)").await?;
    let mut buffer = Vec::with_capacity(BUFFER_LEN);
    encode::start(&mut buffer);
    let mut rows = source.stream("select distinct card_id from calls where card_id > 0");
    while let Some(row) = rows.try_next().await? {
        encode::start_row(&mut buffer, 1);
        encode::value(&mut buffer, Kind::Integer, row.bytes(0)?)?;
        if buffer.len() > BUFFER_LEN {
            copy.send(buffer.as_slice()).await?;
            buffer.clear();
        }
    }
    drop(rows);
    encode::end(&mut buffer);
    copy.send(buffer.as_slice()).await?;
    copy.finish().await?;
    Ok(())
}
