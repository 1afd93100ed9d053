//! Compares MOR's tables and columns with those of Mortise: what is read, and how.

use std::collections::BTreeMap;

use sqlx::PgConnection;

use crate::mor_import::error::ImportError;
use crate::mor_import::source::{self, Source, SourceError};
use crate::mor_import::target::{self, Kind, TargetColumn};

/// Without these tables a database is not one of MOR.
const REQUIRED_TABLES: [&str; 7] = ["users", "currencies", "conflines", "cardgroups", "cards", "payments", "actions"];
/// Local times that MOR compares as they are.
const UNSHIFTED_COLUMNS: [(&str, &str); 2] = [("cardgroups", "valid_from"), ("cardgroups", "valid_till")];

/// The table and column that `--history` is about.
pub const HISTORY: (&str, &str) = ("actions", "date");

/// A table as it is imported.
#[derive(Debug, Clone)]
pub struct Table {
    /// The name, in both databases.
    pub name: &'static str,
    /// The columns, in Mortise's order.
    pub columns: Vec<Column>,
    /// Rows, as MySQL estimates.
    pub rows_estimated: u64,
    /// The next id that MOR would give.
    pub auto_increment: i64,
}

/// A column as it is imported.
#[derive(Debug, Clone)]
pub struct Column {
    /// The column in Mortise.
    pub target: TargetColumn,
    /// MySQL's expression for the value; `None` if this MOR does not have the column.
    pub source: Option<String>,
    /// Whether MOR stores a local time here, which is converted to UTC.
    pub is_local_time: bool,
}

/// What is known before anything is read.
#[derive(Debug)]
#[expect(missing_docs, reason = "self-explanatory names")]
pub struct Inspection {
    pub server_version: String,
    /// The default time zone of MySQL: an IANA name or an offset; `None` if it is unknown.
    pub server_time_zone: Option<String>,
    pub tables: Vec<Table>,
    /// Whether calls can be searched by card.
    pub has_calls_by_card: bool,
    /// What the operator should know.
    pub notes: Vec<String>,
}

impl Table {
    /// The columns that are read from MOR.
    pub fn read_columns(&self) -> impl Iterator<Item = (&Column, &str)> {
        self.columns.iter().filter_map(|column| Some((column, column.source.as_deref()?)))
    }

    /// MySQL's condition of the rows of the log from this date on, in local time; `None` for other tables. Rows whose
    /// date is zero or NULL count as recent.
    pub fn history_condition(&self, from: &str) -> Option<String> {
        let (_, date) = self.read_columns().find(|(column, _)| (self.name, column.target.name.as_str()) == HISTORY)?;
        Some(format!("(coalesce({date}, '') < '0001' or {date} >= '{from}')"))
    }
}

/// A column of MOR.
struct SourceColumn {
    name: String,
    data_type: String,
}

/// Reads both schemas.
///
/// # Errors
///
/// If the database is not one of MOR, or has a column that cannot be read.
pub async fn inspect(source: &mut Source, target: &mut PgConnection) -> Result<Inspection, ImportError> {
    let version = source.row("select version(), @@global.time_zone").await?;
    let mut version = version.into_iter().map(Option::unwrap_or_default);
    let (server_version, zone) = (version.next().unwrap_or_default(), version.next().unwrap_or_default());
    let server_time_zone =
        Some(zone).filter(|zone| zone.contains('/') || zone.starts_with(['+', '-']) || zone == "UTC");

    let mut source_columns = read_source_columns(source).await?;
    let mut notes = Vec::new();
    let mut tables = Vec::new();
    let mut without_snapshot = Vec::new();
    let status = read_table_status(source).await?;
    for name in target::TABLES {
        let target_columns = target::columns(target, name).await?;
        if target_columns.is_empty() {
            continue;
        }
        let Some(columns) = source_columns.remove(name) else {
            if REQUIRED_TABLES.contains(&name) {
                return Err(ImportError::refused(format!(
                    "MOR's database has no table {name}: check the name of the database, and that the user may read all \
                     its tables"
                )));
            }
            notes.push(format!("MOR has no table {name}: it stays empty"));
            continue;
        };
        let (engine, rows_estimated) = status.get(name).cloned().unwrap_or_default();
        if engine != "InnoDB" {
            without_snapshot.push(format!("{name} ({engine})"));
        }
        let columns = match_columns(name, rows_estimated, target_columns, columns, &mut notes)?;
        let auto_increment = read_auto_increment(source, name).await?;
        tables.push(Table { name, columns, rows_estimated, auto_increment });
    }
    if let Some(count) = count_unshifted(source, &tables).await? {
        notes.push(format!(
            "cardgroups: valid_from and valid_till of {count} rows stay local times, as MOR compares them"
        ));
    }
    if !without_snapshot.is_empty() {
        notes.push(format!(
            "the engine of these tables has no snapshots: {}. Nothing must write to them during the import",
            without_snapshot.join(", ")
        ));
    }
    let others: Vec<String> = source_columns
        .keys()
        .map(|name| format!("{name} ({} rows)", status.get(name.as_str()).map_or(0, |(_, rows)| *rows)))
        .collect();
    if !others.is_empty() {
        notes.push(format!("tables that Mortise does not have, with MySQL's estimates: {}", others.join(", ")));
    }
    let has_calls_by_card = !source
        .rows(
            "select 1 from information_schema.statistics
             where table_schema = database() and table_name = 'calls' and column_name = 'card_id' and seq_in_index = 1",
        )
        .await?
        .is_empty();
    Ok(Inspection { server_version, server_time_zone, tables, has_calls_by_card, notes })
}

async fn read_source_columns(source: &mut Source) -> Result<BTreeMap<String, Vec<SourceColumn>>, SourceError> {
    let rows = source
        .rows(
            "select c.table_name, c.column_name, lower(c.data_type)
             from information_schema.columns c
             join information_schema.tables t on t.table_schema = c.table_schema and t.table_name = c.table_name
             where c.table_schema = database() and t.table_type = 'BASE TABLE'
             order by c.table_name, c.ordinal_position",
        )
        .await?;
    let mut tables: BTreeMap<String, Vec<SourceColumn>> = BTreeMap::new();
    for row in rows {
        let mut row = row.into_iter().map(Option::unwrap_or_default);
        let mut next = || row.next().unwrap_or_default();
        let (table, column) = (next(), SourceColumn { name: next(), data_type: next() });
        tables.entry(table).or_default().push(column);
    }
    Ok(tables)
}

/// Returns the engine and the estimated number of rows of each table.
async fn read_table_status(source: &mut Source) -> Result<BTreeMap<String, (String, u64)>, SourceError> {
    let rows = source
        .rows("select table_name, engine, table_rows from information_schema.tables where table_schema = database()")
        .await?;
    let rows = rows.into_iter().map(|row| {
        let mut row = row.into_iter().map(Option::unwrap_or_default);
        let mut next = || row.next().unwrap_or_default();
        (next(), (next(), next().parse().unwrap_or_default()))
    });
    Ok(rows.collect())
}

/// Returns the number of card groups with a local time that is not converted; `None` if there is none.
async fn count_unshifted(source: &mut Source, tables: &[Table]) -> Result<Option<u64>, SourceError> {
    let columns: Vec<String> = tables
        .iter()
        .flat_map(|table| {
            table.columns.iter().filter(|column| column.source.is_some()).map(|column| (table.name, column))
        })
        .filter(|(table, column)| UNSHIFTED_COLUMNS.contains(&(*table, column.target.name.as_str())))
        .map(|(_, column)| format!("{} is not null", source::quote(&column.target.name)))
        .collect();
    if columns.is_empty() {
        return Ok(None);
    }
    let row = source.row(&format!("select count(*) from cardgroups where {}", columns.join(" or "))).await?;
    let count = row.into_iter().next().flatten().and_then(|count| count.parse().ok());
    Ok(count.filter(|count| *count > 0))
}

/// Returns the next id. The statistics of MySQL 8 can be old, the definition of the table is not.
async fn read_auto_increment(source: &mut Source, table: &str) -> Result<i64, SourceError> {
    let row = source.row(&format!("show create table {}", source::quote(table))).await?;
    let definition = row.into_iter().nth(1).flatten().unwrap_or_default();
    let options = definition.rsplit('\n').next().unwrap_or_default();
    let value = options.split_once("AUTO_INCREMENT=").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
    Ok(value.unwrap_or(1))
}

fn match_columns(
    table: &'static str,
    rows_estimated: u64,
    target_columns: Vec<TargetColumn>,
    source_columns: Vec<SourceColumn>,
    notes: &mut Vec<String>,
) -> Result<Vec<Column>, ImportError> {
    let mut missing = Vec::new();
    let mut columns = Vec::new();
    for target in &target_columns {
        let source = source_columns.iter().find(|source| source.name == target.name);
        if source.is_none() && target.name == "id" {
            return Err(ImportError::refused(format!("MOR's table {table} has no column id: it cannot be imported")));
        }
        if source.is_none() {
            missing.push(match &target.default {
                Some(default) => format!("{} ({})", target.name, default.split("::").next().unwrap_or_default()),
                None => format!("{} (NULL)", target.name),
            });
        }
        let expression = source.map(|source| select_expression(table, target, source)).transpose()?;
        // A `timestamp` is read in UTC, a `date` has no time.
        let is_local_time = source.is_some_and(|source| source.data_type == "datetime")
            && !UNSHIFTED_COLUMNS.contains(&(table, target.name.as_str()));
        columns.push(Column { target: target.clone(), source: expression, is_local_time });
    }
    if !missing.is_empty() {
        notes.push(format!("{table}: columns that this MOR does not have get their defaults: {}", missing.join(", ")));
    }
    let has = |name: &str| target_columns.iter().any(|target| target.name == name);
    let others: Vec<&str> =
        source_columns.iter().map(|source| source.name.as_str()).filter(|name| !has(name)).collect();
    if !others.is_empty() {
        let others = others.join(", ");
        notes.push(format!("{table}: columns that Mortise does not have: {others} (about {rows_estimated} rows)"));
    }
    Ok(columns)
}

/// Returns the MySQL expression whose text is the value as it is staged.
fn select_expression(table: &str, target: &TargetColumn, source: &SourceColumn) -> Result<String, ImportError> {
    let name = source::quote(&source.name);
    let data_type = source.data_type.as_str();
    let is_text = data_type.ends_with("char") || data_type.ends_with("text") || matches!(data_type, "enum" | "set");
    let is_integer = matches!(data_type, "tinyint" | "smallint" | "mediumint" | "int" | "bigint");
    Ok(match (target.kind, data_type) {
        (Kind::Integer, "bit") => format!("({name} + 0)"),
        (Kind::Integer, _) if is_integer => name,
        (Kind::Numeric, "decimal" | "double" | "float") => format!("cast({name} as decimal(30, 15))"),
        (Kind::Numeric, _) if is_integer => format!("cast({name} as decimal(30, 15))"),
        (Kind::Text, _) if is_text => name,
        (Kind::Text, _) if is_integer || matches!(data_type, "decimal" | "date" | "datetime") => {
            format!("cast({name} as char)")
        }
        (Kind::Text, _) if data_type.ends_with("blob") || data_type.ends_with("binary") => {
            format!("convert({name} using utf8mb4)")
        }
        (Kind::Timestamp, "datetime" | "timestamp") => format!("left(cast({name} as char), 19)"),
        (Kind::Timestamp, "date") => format!("concat(cast({name} as char), ' 00:00:00')"),
        (Kind::Time, "time") => format!("left(cast({name} as char), 9)"),
        (_, other) => {
            return Err(ImportError::refused(format!(
                "{table}.{} has the type {other} in MOR, which Mortise cannot read: this MOR is newer than Mortise knows. \
                 Upgrade Mortise",
                source.name
            )));
        }
    })
}
