//! The content of rows as canonical text, and its checksums, in the SQL of both databases.
//!
//! The text of a row is the text of its columns as MOR has them: local times before the conversion, altered cells by
//! their original in `import_findings`. A range of ids has the number of its rows and the bit-xor of their MD5 sums.

use std::collections::BTreeMap;

use serde::Serialize;
use sqlx::{AssertSqlSafe, PgConnection};

use crate::mor_import::error::ImportError;
use crate::mor_import::inspect::Column;
use crate::mor_import::source::{self, Source};
use crate::mor_import::target::{Kind, literal, quote};
use crate::mor_import::time_zone::TimeZone;

/// Ids of one range.
pub const RANGE_LEN: i64 = 65_536;

/// The rows of a table that are compared.
#[derive(Debug)]
pub struct ComparedTable<'a> {
    /// The name, in both databases.
    pub name: &'a str,
    /// The columns that MOR has.
    pub columns: Vec<&'a Column>,
    /// Columns of which the import altered cells.
    pub altered: Vec<String>,
    /// Rows of MOR that were left out.
    pub left_out: Vec<i64>,
}

/// The rows of a range of ids: their number, and two checksums of 60 bits.
pub type RangeSums = BTreeMap<i64, (i64, i64, i64)>;

/// A row, a cell or a sum that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "self-explanatory names")]
pub struct Difference {
    pub table: String,
    /// `None`: a sum.
    pub id: Option<i64>,
    /// `None`: the whole row.
    pub column: Option<String>,
    pub text: String,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}", self.table)?;
        if let Some(id) = self.id {
            write!(formatter, " {id}")?;
        }
        if let Some(column) = &self.column {
            write!(formatter, " {column}")?;
        }
        write!(formatter, ": {}", self.text)
    }
}

impl ComparedTable<'_> {
    /// The condition on MOR's rows.
    pub fn source_condition(&self) -> String {
        if self.left_out.is_empty() {
            return "true".to_owned();
        }
        let ids: Vec<String> = self.left_out.iter().map(i64::to_string).collect();
        format!("id not in ({})", ids.join(", "))
    }

    /// The text of a cell, in MySQL; NULL has a text of its own.
    pub fn source_cell(column: &Column) -> String {
        let expression = column.source.as_deref().unwrap_or("null");
        let text = match column.target.kind {
            Kind::Text => {
                format!(
                    "replace(convert({expression} using utf8mb4), char(0 using utf8mb4), concat(char(92 using utf8mb4), '0'))"
                )
            }
            _ => format!("convert({expression} using utf8mb4)"),
        };
        format!("coalesce({text}, char(30 using utf8mb4))")
    }

    /// The text of a cell, in PostgreSQL. `live` is the row, `altered` the originals of altered cells.
    pub fn target_cell(&self, column: &Column, zone: &TimeZone) -> String {
        let name = format!("live.{}", quote(&column.target.name));
        let text = match column.target.kind {
            Kind::Text => name,
            Kind::Timestamp if column.is_local_time => {
                format!("to_char({}, 'YYYY-MM-DD HH24:MI:SS')", zone.to_local(&name))
            }
            Kind::Timestamp => format!("to_char({name}, 'YYYY-MM-DD HH24:MI:SS')"),
            Kind::Integer | Kind::Numeric | Kind::Time => format!("{name}::text"),
        };
        let text = if self.altered.contains(&column.target.name) {
            let key = literal(&column.target.name);
            format!("case when altered.originals ? {key} then altered.originals ->> {key} else {text} end")
        } else {
            text
        };
        format!("coalesce({text}, chr(30))")
    }

    /// The rows of Mortise: `live`, and `altered`.
    pub fn target_rows(&self, run_id: i64) -> String {
        let name = self.name;
        let altered = match self.altered.is_empty() {
            true => String::new(),
            false => format!(
                r#"left join (
                       select id, jsonb_object_agg("column", original) as originals
                       from import_findings
                       where run_id = {run_id} and "table" = '{name}' and "column" is not null
                       group by id
                   ) altered on altered.id = live.id"#
            ),
        };
        format!(
            r#"{name} live {altered}
               where live.id not in (select id from import_findings
                                     where run_id = {run_id} and "table" = '{name}' and rule = 'orphan_group')"#
        )
    }

    /// The text of a row, in MySQL.
    pub fn source_text(&self) -> String {
        let cells: Vec<String> = self.columns.iter().map(|column| Self::source_cell(column)).collect();
        format!("concat_ws(char(31 using utf8mb4), {})", cells.join(", "))
    }

    /// The text of a row, in PostgreSQL.
    pub fn target_text(&self, zone: &TimeZone) -> String {
        let cells: Vec<String> = self.columns.iter().map(|column| self.target_cell(column, zone)).collect();
        // Functions take at most 100 arguments.
        cells.join(" || chr(31) || ")
    }

    /// Returns the checksums of MOR's rows.
    pub async fn source_sums(&self, source: &mut Source) -> Result<RangeSums, ImportError> {
        let rows = source
            .rows(&format!(
                "select id div {RANGE_LEN}, count(*), bit_xor(cast(conv(substr(sum, 1, 15), 16, 10) as unsigned)),
                     bit_xor(cast(conv(substr(sum, 16, 15), 16, 10) as unsigned))
                 from (select id, md5({}) as sum from {} where {}) as live
                 group by id div {RANGE_LEN}",
                self.source_text(),
                source::quote(self.name),
                self.source_condition()
            ))
            .await?;
        rows.iter()
            .map(|row| {
                let sums = parse_sums(row);
                sums.ok_or_else(|| ImportError::refused(format!("MySQL's checksum of {} is no number", self.name)))
            })
            .collect()
    }

    /// Returns the checksums of Mortise's rows.
    pub async fn target_sums(
        &self,
        target: &mut PgConnection,
        zone: &TimeZone,
        run_id: i64,
    ) -> Result<RangeSums, ImportError> {
        let sql = format!(
            "select id / {RANGE_LEN}, count(*), bit_xor(('x' || substr(sum, 1, 15))::bit(60)::bigint),
                 bit_xor(('x' || substr(sum, 16, 15))::bit(60)::bigint)
             from (select live.id::bigint, md5({}) as sum from {}) row
             group by id / {RANGE_LEN}",
            self.target_text(zone),
            self.target_rows(run_id)
        );
        let rows: Vec<(i64, i64, i64, i64)> = sqlx::query_as(AssertSqlSafe(sql)).fetch_all(target).await?;
        Ok(rows.into_iter().map(|(range, count, first, second)| (range, (count, first, second))).collect())
    }
}

fn parse_sums(row: &[Option<String>]) -> Option<(i64, (i64, i64, i64))> {
    let number = |index: usize| row.get(index)?.as_deref()?.parse().ok();
    Some((number(0)?, (number(1)?, number(2)?, number(3)?)))
}
