//! An import as the database records it: tables `import_runs` and `import_findings`, and a row of the change log.

use sqlx::PgConnection;

use crate::mor_import::error::ImportError;
use crate::mor_import::imported_run::TableResult;
use crate::mor_import::target;
use crate::store::change_log::{Author, Change, Target, What};

/// What is recorded of an import.
#[derive(Debug)]
#[expect(missing_docs, reason = "self-explanatory names")]
pub struct NewRun {
    /// In UTC.
    pub started_at: String,
    /// MOR's database: `user@host:port/database`.
    pub source: String,
    pub server_version: String,
    pub time_zone: String,
    pub snapshot_position: String,
    /// The date from which on rows of `actions` were imported.
    pub history: Option<String>,
    /// Payments of sales that the import has discarded; `None`: the database was new.
    pub discarded_sales: Option<i64>,
}

impl NewRun {
    /// Records the run and its findings, with which the verification knows MOR's values. Returns the id of the run.
    pub async fn record(&self, target: &mut PgConnection) -> Result<i64, ImportError> {
        let run_id = sqlx::query_scalar(
            "insert into import_runs (started_at, source, server_version, time_zone, snapshot_position, history, tables)
             values ($1::text::timestamp, $2, $3, $4, $5, $6::text::date, '[]') returning id",
        )
        .bind(&self.started_at)
        .bind(&self.source)
        .bind(&self.server_version)
        .bind(&self.time_zone)
        .bind(&self.snapshot_position)
        .bind(&self.history)
        .fetch_one(&mut *target)
        .await?;
        // Of two findings about a cell, the first one has MOR's value: it altered the cell before the other was found.
        sqlx::query(
            r#"insert into import_findings (run_id, rule, "table", id, "column", original, decision, money)
               select $1, rule, "table", id, "column",
                   case when "column" is null then value
                       else first_value(original) over (
                           partition by "table", id, "column" order by is_applied desc, rule) end,
                   case when decision in ('default', 'undecided') then default_action else decision end, money
               from mor_import.findings"#,
        )
        .bind(run_id)
        .execute(&mut *target)
        .await?;
        target::execute(target, "analyze import_findings").await?;
        Ok(run_id)
    }

    /// Stores the checksums, and writes the change log.
    pub async fn finish(
        &self,
        target: &mut PgConnection,
        run_id: i64,
        tables: &[TableResult],
        operator: &str,
    ) -> Result<(), ImportError> {
        let total = |rows: fn(&TableResult) -> i64| tables.iter().map(rows).sum::<i64>();
        let mut counts = serde_json::json!({
            "imported": total(|table| table.imported),
            "quarantined": total(|table| table.quarantined),
            "left_out": total(|table| table.left_out),
        });
        if let Some(sales) = self.discarded_sales {
            counts["discarded_sales"] = sales.into();
        }
        let tables = serde_json::to_string(tables).map_err(|error| ImportError::refused(error.to_string()))?;
        sqlx::query(
            "update import_runs set tables = $2::text::jsonb, finished_at = clock_timestamp() at time zone 'utc'
             where id = $1",
        )
        .bind(run_id)
        .bind(tables)
        .execute(&mut *target)
        .await?;
        let change = Change {
            what: What::Import,
            target: Target::Row { id: run_id, name: &self.source },
            before: None,
            after: Some(counts.to_string()),
        };
        change.record(target, &Author::Command { operator: operator.to_owned() }).await?;
        Ok(())
    }
}
