//! The steps of an import, and of a comparison, in their order.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use sqlx::{PgConnection, PgPool};

use crate::mor_import::error::ImportError;
use crate::mor_import::inspect::{self, Inspection};
use crate::mor_import::progress::Event;
use crate::mor_import::report::RuleCount;
use crate::mor_import::source::{Source, SourceOptions};
use crate::mor_import::time_zone::TimeZone;
use crate::mor_import::verify::{TableResult, Verification};
use crate::mor_import::{build, outcome, report, stage, target, validate, verify};

/// PostgreSQL ends the session of a killed program within a second. A new import waits 5 seconds for it.
const POLLS_MAX: u32 = 50;
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// What an import does.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// MOR's database.
    pub source: SourceOptions,
    /// The time zone of MOR's local times, if the operator names it.
    pub time_zone: Option<String>,
    /// Ends before the tables of Mortise are changed.
    pub is_dry_run: bool,
    /// The file with the operator's decisions.
    pub decisions: Option<PathBuf>,
    /// The file to which the findings are written.
    pub report: Option<PathBuf>,
    /// The operating system's user, for the change log.
    pub operator: String,
}

/// The result of an import.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "self-explanatory names")]
pub struct ImportResult {
    pub findings: Vec<RuleCount>,
    /// Findings without which the import does not go on.
    pub undecided: i64,
    /// `None` if the import ended before the tables of Mortise were changed.
    pub verification: Option<Verification>,
    pub run_id: Option<i64>,
}

/// Imports MOR's database, and verifies it before the change is committed.
///
/// # Errors
///
/// If anything differs, or the data needs decisions. The tables of Mortise are then unchanged.
pub async fn import(
    options: &ImportOptions,
    pool: &PgPool,
    mut progress: impl FnMut(Event),
) -> Result<ImportResult, ImportError> {
    let mut source = Source::connect(&options.source).await?;
    let mut target = target::connect(pool).await?;
    lock(&mut target).await?;
    if !options.is_dry_run {
        require_unused(&mut target, pool).await?;
    }
    progress(Event::Step { step: "inspect" });
    let inspection = inspect::inspect(&mut source, &mut target).await?;
    for note in &inspection.notes {
        progress(Event::Note { text: note.clone() });
    }
    let server_zone = inspection.server_time_zone.as_deref();
    let zone = TimeZone::resolve(options.time_zone.as_deref(), server_zone, &mut target).await?;
    let started_at: String =
        sqlx::query_scalar("select (now() at time zone 'utc')::text").fetch_one(&mut target).await?;

    progress(Event::Step { step: "stage" });
    source.begin_snapshot().await?;
    let position = snapshot_position(&mut source).await;
    stage::create_schema(&mut target, &inspection, &zone).await?;
    stage::stage(&mut source, &mut target, &inspection, &mut progress).await?;

    progress(Event::Step { step: "validate" });
    validate::find(&mut target, &inspection).await?;
    if let Some(file) = &options.decisions {
        let unused = report::apply_decisions(&mut target, file).await?;
        if unused > 0 {
            let text = format!("{unused} lines of {} name findings that do not exist any more", file.display());
            progress(Event::Note { text });
        }
    }
    if let Some(file) = &options.report {
        report::write(&mut target, file).await?;
    }
    let findings = report::count(&mut target).await?;
    // A distributor's card is reserved until it is decided.
    let undecided = findings.iter().filter(|count| count.rule != "distributor").map(|count| count.undecided).sum();
    if options.is_dry_run || undecided > 0 {
        source.close().await;
        // It contains a copy of all PINs.
        target::execute(&mut target, "drop schema mor_import cascade").await?;
        return Ok(ImportResult { findings, undecided, verification: None, run_id: None });
    }

    progress(Event::Step { step: "build" });
    outcome::compute(&mut target).await?;
    target::execute(&mut target, "begin").await?;
    require_unused(&mut target, pool).await?;
    build::build(&mut target, &inspection).await?;
    let run = Run { options, inspection: &inspection, zone: &zone, started_at, position };
    let run_id = run.record(&mut target).await?;

    progress(Event::Step { step: "verify" });
    let verification = verify::verify(&mut source, &mut target, &inspection, &zone, run_id).await?;
    if verification.differences.is_empty() {
        run.finish(&mut target, run_id, &verification.tables).await?;
        target::execute(&mut target, "commit").await?;
        let tables: Vec<&str> = inspection.tables.iter().map(|table| table.name).collect();
        target::execute(&mut target, format!("analyze {}, card_stock", tables.join(", "))).await?;
        target::execute(&mut target, "drop schema mor_import cascade").await?;
    } else {
        target::execute(&mut target, "rollback").await?;
    }
    source.close().await;
    Ok(ImportResult { findings, undecided, verification: Some(verification), run_id: Some(run_id) })
}

/// Compares MOR's database with the rows that the last import brought.
pub async fn reconcile(
    options: &SourceOptions,
    pool: &PgPool,
    mut progress: impl FnMut(Event),
) -> Result<Verification, ImportError> {
    let mut source = Source::connect(options).await?;
    let mut target = target::connect(pool).await?;
    let run: Option<(i64, String)> = sqlx::query_as("select id, time_zone from import_runs order by id desc limit 1")
        .fetch_optional(&mut target)
        .await?;
    let (run_id, name) = run
        .ok_or_else(|| ImportError::refused("this database was not filled by `mortise import`: nothing to compare"))?;
    progress(Event::Step { step: "inspect" });
    let inspection = inspect::inspect(&mut source, &mut target).await?;
    source.begin_snapshot().await?;
    target::execute(&mut target, "begin isolation level repeatable read, read only").await?;
    progress(Event::Step { step: "verify" });
    let verification = verify::verify(&mut source, &mut target, &inspection, &TimeZone { name }, run_id).await?;
    source.close().await;
    Ok(verification)
}

/// One import at a time: a second one would drop the staged tables of the first.
async fn lock(target: &mut PgConnection) -> Result<(), ImportError> {
    for _ in 0..POLLS_MAX {
        let is_locked: bool = sqlx::query_scalar("select pg_try_advisory_lock(hashtextextended('mortise import', 0))")
            .fetch_one(&mut *target)
            .await?;
        if is_locked {
            return Ok(());
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    Err(ImportError::refused("another import runs on this database: wait for its end"))
}

/// Only an empty database is filled, and no server may use it meanwhile.
async fn require_unused(target: &mut PgConnection, pool: &PgPool) -> Result<(), ImportError> {
    let mut polls_left = POLLS_MAX;
    while target::has_other_sessions(target, pool.size()).await? {
        polls_left -= 1;
        if polls_left == 0 {
            return Err(ImportError::refused("a server or another command uses the database: stop it first"));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    match target::find_used_table(target).await? {
        None => Ok(()),
        Some(table) => Err(ImportError::refused(format!(
            "the database is in use: the table {table} has rows. Import into an empty database"
        ))),
    }
}

/// Where the snapshot is in MOR's binary log; empty if the server does not tell this user.
async fn snapshot_position(source: &mut Source) -> String {
    for query in ["show status like 'binlog_snapshot%'", "show master status", "show binary log status"] {
        if let Ok(rows) = source.rows(query).await {
            let texts: Vec<String> = rows.into_iter().flatten().flatten().filter(|text| !text.is_empty()).collect();
            // Without a binary log, the names and a position of 0 are left.
            if texts.iter().any(|text| text.contains('.')) {
                return texts.join(" ");
            }
        }
    }
    String::new()
}

/// A run, as it is recorded.
struct Run<'a> {
    options: &'a ImportOptions,
    inspection: &'a Inspection,
    zone: &'a TimeZone,
    started_at: String,
    position: String,
}

impl Run<'_> {
    /// Records the run and its findings, with which the verification knows MOR's values.
    async fn record(&self, target: &mut PgConnection) -> Result<i64, ImportError> {
        let run_id = sqlx::query_scalar(
            "insert into import_runs (started_at, source, server_version, time_zone, snapshot_position, tables)
             values ($1::text::timestamp, $2, $3, $4, $5, '[]') returning id",
        )
        .bind(&self.started_at)
        .bind(self.options.source.address.to_string())
        .bind(&self.inspection.server_version)
        .bind(&self.zone.name)
        .bind(&self.position)
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
    async fn finish(&self, target: &mut PgConnection, run_id: i64, tables: &[TableResult]) -> Result<(), ImportError> {
        let total = |rows: fn(&TableResult) -> i64| tables.iter().map(rows).sum::<i64>();
        let counts = serde_json::json!({
            "imported": total(|table| table.imported),
            "quarantined": total(|table| table.quarantined),
            "left_out": total(|table| table.left_out),
        });
        let tables = serde_json::to_string(tables).map_err(|error| ImportError::refused(error.to_string()))?;
        sqlx::query(
            "update import_runs set tables = $2::text::jsonb, finished_at = clock_timestamp() at time zone 'utc'
             where id = $1",
        )
        .bind(run_id)
        .bind(tables)
        .execute(&mut *target)
        .await?;
        sqlx::query(
            "insert into change_log (who, operator, what, target_id, target_name, after)
             values ('command', $1, 'import', $2, $3, $4::text::jsonb)",
        )
        .bind(&self.options.operator)
        .bind(run_id)
        .bind(self.options.source.address.to_string())
        .bind(counts.to_string())
        .execute(target)
        .await?;
        Ok(())
    }
}
