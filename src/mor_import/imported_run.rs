//! The import that filled the database, as the tables `import_runs` and `import_findings` describe it.

use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::mor_import::checksum::RangeSums;
use crate::mor_import::error::ImportError;
use crate::mor_import::time_zone::TimeZone;

/// The rows of a table on both sides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "self-explanatory names")]
pub struct TableResult {
    pub table: String,
    pub rows_in_mor: i64,
    /// Without the quarantined ones.
    pub imported: i64,
    pub quarantined: i64,
    pub left_out: i64,
    /// Range of ids, rows, and two checksums.
    pub ranges: Vec<(i64, i64, i64, i64)>,
}

impl TableResult {
    /// The checksums by range of ids.
    pub fn sums(&self) -> RangeSums {
        self.ranges.iter().map(|(range, rows, first, second)| (*range, (*rows, *first, *second))).collect()
    }
}

/// The import that filled the database.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "self-explanatory names")]
pub struct ImportedRun {
    pub id: i64,
    pub source: String,
    /// In UTC.
    pub finished_at: String,
    /// Of MOR's local times.
    pub zone: TimeZone,
    pub history: Option<String>,
    /// The rows at the import; empty while it runs.
    pub tables: Vec<TableResult>,
}

impl ImportedRun {
    /// Reads the last import. `None`: the database was not filled by one.
    pub async fn load(target: &mut PgConnection) -> Result<Option<Self>, ImportError> {
        let row: Option<(i64, String, String, String, Option<String>, String)> = sqlx::query_as(
            "select id, source, to_char(finished_at, 'YYYY-MM-DD HH24:MI:SS'), time_zone, history::text, tables::text
             from import_runs order by id desc limit 1",
        )
        .fetch_optional(target)
        .await?;
        let Some((id, source, finished_at, zone, history, tables)) = row else { return Ok(None) };
        let tables = serde_json::from_str(&tables)
            .map_err(|error| ImportError::refused(format!("import_runs.tables of the run {id} is damaged: {error}")))?;
        Ok(Some(Self { id, source, finished_at, zone: TimeZone { name: zone }, history, tables }))
    }

    /// MOR's database without the user who reads it: `host:port/database`.
    pub fn database(&self) -> &str {
        self.source.rsplit_once('@').map_or(self.source.as_str(), |(_, database)| database)
    }
}
