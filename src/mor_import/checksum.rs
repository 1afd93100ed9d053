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

/// Ranges of ids in a condition of MySQL.
const LEFT_OUT_IN_CONDITION_MAX: usize = 1000;
/// Ids of one range: a later comparison tells for so many ids on which side rows have changed.
pub const RANGE_LEN: i64 = 1024;

/// The rows of a table that are compared.
#[derive(Debug)]
pub struct ComparedTable<'a> {
    /// The name, in both databases.
    pub name: &'a str,
    /// The columns that MOR has.
    pub columns: Vec<&'a Column>,
    /// Columns of which the import altered cells.
    pub altered: Vec<String>,
    /// Rows of MOR that were left out: first and last ids, in order.
    pub left_out: Vec<(i64, i64)>,
    /// The condition of the rows that are recent enough, in MySQL. It is never NULL.
    pub history: Option<String>,
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
    /// Where rows of this range of ids have changed since the import; `None` if that is not known.
    pub changed_in: Option<Side>,
}

/// A side of the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "self-explanatory names")]
pub enum Side {
    Mor,
    Mortise,
    Both,
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
        write!(formatter, ": {}", self.text)?;
        match self.changed_in {
            Some(Side::Mor) => write!(formatter, " (changed in MOR since the import)"),
            Some(Side::Mortise) => write!(formatter, " (changed in Mortise since the import)"),
            Some(Side::Both) => write!(formatter, " (rows near this id changed on both sides since the import)"),
            None => Ok(()),
        }
    }
}

impl ComparedTable<'_> {
    /// The number of the rows that were left out.
    pub fn left_out_rows(&self) -> i64 {
        self.left_out.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// Whether a row of MOR was left out.
    pub fn is_left_out(&self, id: i64) -> bool {
        let after = self.left_out.partition_point(|(first, _)| *first <= id);
        after.checked_sub(1).and_then(|index| self.left_out.get(index)).is_some_and(|(_, last)| id <= *last)
    }

    /// Conditions, each on a part of MOR's rows; together all rows that were not left out. One condition with all ids
    /// could be longer than MySQL accepts.
    pub fn source_conditions(&self) -> Vec<String> {
        let parts: Vec<&[(i64, i64)]> = self.left_out.chunks(LEFT_OUT_IN_CONDITION_MAX).collect();
        let recent = self.history.clone().unwrap_or_else(|| "true".to_owned());
        let Some(last) = parts.len().checked_sub(1) else { return vec![recent] };
        let condition = |(index, part): (usize, &&[(i64, i64)])| {
            let mut terms = vec![recent.clone()];
            if index > 0 {
                terms.extend(part.first().map(|(first, _)| format!("id >= {first}")));
            }
            if index < last {
                terms.extend(parts[index + 1].first().map(|(first, _)| format!("id < {first}")));
            }
            // MySQL searches a list of constants quickly.
            let single = part.iter().filter(|(first, last)| first == last).map(|(id, _)| id.to_string());
            let single: Vec<String> = single.collect();
            if !single.is_empty() {
                terms.push(format!("id not in ({})", single.join(", ")));
            }
            let ranges = part.iter().filter(|(first, last)| first != last);
            terms.extend(ranges.map(|(first, last)| format!("id not between {first} and {last}")));
            terms.join(" and ")
        };
        parts.iter().enumerate().map(condition).collect()
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
        format!("coalesce({}, chr(30))", self.or_original(&column.target.name, text))
    }

    /// The original of an altered cell, else `text`.
    fn or_original(&self, column: &str, text: String) -> String {
        if !self.altered.iter().any(|altered| altered == column) {
            return text;
        }
        let key = literal(column);
        format!("case when altered.originals ? {key} then altered.originals ->> {key} else {text} end")
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
        let mut sums = RangeSums::new();
        for condition in self.source_conditions() {
            let rows = source
                .rows(&format!(
                    "select id div {RANGE_LEN}, count(*), bit_xor(cast(conv(substr(sum, 1, 15), 16, 10) as unsigned)),
                         bit_xor(cast(conv(substr(sum, 16, 15), 16, 10) as unsigned))
                     from (select id, md5({}) as sum from {} where {condition}) as live
                     group by id div {RANGE_LEN}",
                    self.source_text(),
                    source::quote(self.name),
                ))
                .await?;
            for row in rows {
                let (range, (count, first, second)) = parse_sums(&row)
                    .ok_or_else(|| ImportError::refused(format!("MySQL's checksum of {} is no number", self.name)))?;
                let sum = sums.entry(range).or_insert((0, 0, 0));
                *sum = (sum.0 + count, sum.1 ^ first, sum.2 ^ second);
            }
        }
        Ok(sums)
    }

    /// Returns the checksums of Mortise's rows.
    pub async fn target_sums(
        &self,
        target: &mut PgConnection,
        zone: &TimeZone,
        run_id: i64,
    ) -> Result<RangeSums, ImportError> {
        sums_of(target, &self.target_text(zone), &self.target_rows(run_id)).await
    }

    /// Returns the checksums of the staged rows, which are texts as MOR has them.
    pub async fn staged_sums(&self, target: &mut PgConnection) -> Result<RangeSums, ImportError> {
        let cells: Vec<String> = self
            .columns
            .iter()
            .map(|column| {
                let text = format!("live.{}::text", quote(&column.target.name));
                format!("coalesce({}, chr(30))", self.or_original(&column.target.name, text))
            })
            .collect();
        let name = self.name;
        let rows = format!(
            r#"mor_import.{name} live
               left join (
                   select id, jsonb_object_agg("column", original) as originals
                   from mor_import.findings where is_applied and "table" = '{name}' group by id
               ) altered on altered.id = live.id"#
        );
        sums_of(target, &cells.join(" || chr(31) || "), &rows).await
    }
}

async fn sums_of(target: &mut PgConnection, text: &str, rows: &str) -> Result<RangeSums, ImportError> {
    let sql = format!(
        "select id / {RANGE_LEN}, count(*), bit_xor(('x' || substr(sum, 1, 15))::bit(60)::bigint),
             bit_xor(('x' || substr(sum, 16, 15))::bit(60)::bigint)
         from (select live.id::bigint, md5({text}) as sum from {rows}) row
         group by id / {RANGE_LEN}"
    );
    let rows: Vec<(i64, i64, i64, i64)> = sqlx::query_as(AssertSqlSafe(sql)).fetch_all(target).await?;
    Ok(rows.into_iter().map(|(range, count, first, second)| (range, (count, first, second))).collect())
}

fn parse_sums(row: &[Option<String>]) -> Option<(i64, (i64, i64, i64))> {
    let number = |index: usize| row.get(index)?.as_deref()?.parse().ok();
    Some((number(0)?, (number(1)?, number(2)?, number(3)?)))
}
