//! The steps of an import, in their order.

use std::path::PathBuf;

use serde::Serialize;
use sqlx::{PgConnection, PgPool};

use crate::mor_import::error::ImportError;
use crate::mor_import::imported_run::ImportedRun;
use crate::mor_import::inspect::{self, Inspection};
use crate::mor_import::progress::Event;
use crate::mor_import::record::NewRun;
use crate::mor_import::replace::{self, ReplaceOptions};
use crate::mor_import::report::RuleCount;
use crate::mor_import::source::{Source, SourceOptions};
use crate::mor_import::stage::{self, StageOptions};
use crate::mor_import::time_zone::TimeZone;
use crate::mor_import::verify::{self, Verification};
use crate::mor_import::{build, charset, lock, outcome, reconcile, report, reuse, target, validate};

/// What an import does.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// MOR's database.
    pub source: SourceOptions,
    /// The time zone of MOR's local times, if the operator names it.
    pub time_zone: Option<String>,
    /// How the rows are read.
    pub stage: StageOptions,
    /// The date from which on rows of `actions` are imported, `2025-01-01`; `None`: all.
    pub history: Option<String>,
    /// Ends before the tables of Mortise are changed.
    pub is_dry_run: bool,
    /// The rows of a database in use are replaced; `None`: only a new database is filled.
    pub replace: Option<ReplaceOptions>,
    /// The file with the operator's decisions.
    pub decisions: Option<PathBuf>,
    /// The file to which the findings are written.
    pub report: Option<PathBuf>,
    /// The operating system's user, for the change log.
    pub operator: String,
}

/// The result of an import.
#[derive(Debug, Default, Serialize)]
#[expect(missing_docs, reason = "self-explanatory names")]
pub struct ImportResult {
    pub findings: Vec<RuleCount>,
    /// Findings without which the import does not go on.
    pub undecided: i64,
    /// `None` if the import ended before the tables of Mortise were changed.
    pub verification: Option<Verification>,
    pub run_id: Option<i64>,
    /// When the import was that filled the database, in UTC, if nothing has changed since: nothing was done.
    pub unchanged_since: Option<String>,
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
    lock::prepare_schema(pool, options.replace.is_some()).await?;
    let mut target = target::connect(pool).await?;
    lock::lock_imports(&mut target).await?;
    if !options.is_dry_run {
        match &options.replace {
            Some(replace) => drop(replace::check_sales(&mut target, replace).await?),
            None => {
                let used_table = target::find_used_table(&mut target).await?;
                if let Some(run) = imported_before(options, &mut target, used_table).await? {
                    return compare_again(&mut source, &mut target, &run, progress).await;
                }
                lock::require_unused(used_table)?;
            }
        }
        lock::exclude_others(&mut target, pool).await?;
    }
    let result = import_steps(options, &mut source, &mut target, &mut progress).await;
    source.close().await;
    // The schema contains a copy of all PINs. Only an interrupted import uses it again.
    if !result.as_ref().is_err_and(ImportError::is_interruption) {
        let drop_schema = "rollback; drop schema if exists mor_import cascade";
        if let Err(error) = target::execute(&mut target, drop_schema).await {
            let text = format!("the schema mor_import could not be dropped, it contains a copy of MOR's data: {error}");
            progress(Event::Note { text });
        }
    }
    result
}

/// Returns the import that has filled the database from this MOR.
async fn imported_before(
    options: &ImportOptions,
    target: &mut PgConnection,
    used_table: Option<&str>,
) -> Result<Option<ImportedRun>, ImportError> {
    if used_table.is_none() {
        return Ok(None);
    }
    let source = options.source.address.to_string();
    Ok(ImportedRun::load(target).await?.filter(|run| source.ends_with(&format!("@{}", run.database()))))
}

/// An import that is complete is not repeated if nothing has changed since.
async fn compare_again(
    source: &mut Source,
    target: &mut PgConnection,
    run: &ImportedRun,
    progress: impl FnMut(Event),
) -> Result<ImportResult, ImportError> {
    let verification = reconcile::compare(source, target, run, progress).await?;
    if verification.differences.is_empty() {
        let unchanged_since = Some(run.finished_at.clone());
        return Ok(ImportResult { verification: Some(verification), unchanged_since, ..ImportResult::default() });
    }
    Err(ImportError::refused(format!(
        "this MOR was imported at {} UTC, and rows have changed since: see `mortise reconcile`. To import it again, use a \
         new database, or replace the rows with --replace",
        run.finished_at
    )))
}

async fn import_steps(
    options: &ImportOptions,
    source: &mut Source,
    target: &mut PgConnection,
    progress: &mut impl FnMut(Event),
) -> Result<ImportResult, ImportError> {
    progress(Event::Step { step: "inspect" });
    let inspection = inspect::inspect(source, target).await?;
    charset::check(&inspection, &options.stage.charset_repair)?;
    let age = stage::check_age(&inspection, &options.stage)?;
    for text in inspection.notes.iter().cloned().chain(age) {
        progress(Event::Note { text });
    }
    let server_zone = inspection.server_time_zone.as_deref();
    let zone = TimeZone::resolve(options.time_zone.as_deref(), server_zone, target).await?;
    let started_at = sqlx::query_scalar("select (now() at time zone 'utc')::text").fetch_one(&mut *target).await?;

    progress(Event::Step { step: "stage" });
    source.begin_snapshot().await?;
    let snapshot_position = snapshot_position(source).await;
    stage_rows(options, source, target, &inspection, &zone, &mut *progress).await?;

    progress(Event::Step { step: "validate" });
    validate::find(target, &inspection).await?;
    if let Some(file) = &options.decisions {
        let unused = report::apply_decisions(target, file).await?;
        if unused > 0 {
            let text = format!("{unused} lines of {} name findings that do not exist any more", file.display());
            progress(Event::Note { text });
        }
    }
    if let Some(file) = &options.report {
        report::write(target, file).await?;
    }
    let findings = report::count(target).await?;
    // A distributor's card is reserved until it is decided.
    let undecided = findings.iter().filter(|count| count.rule != "distributor").map(|count| count.undecided).sum();
    if options.is_dry_run || undecided > 0 {
        return Ok(ImportResult { findings, undecided, ..ImportResult::default() });
    }

    progress(Event::Step { step: "build" });
    outcome::compute(target).await?;
    target::execute(target, "begin").await?;
    build::lock(target).await?;
    let discarded_sales = match &options.replace {
        None => {
            lock::require_unused(target::find_used_table(target).await?)?;
            None
        }
        Some(replace) => {
            let sales = replace::check_sales(target, replace).await?;
            if let Some(file) = &replace.backup {
                replace::back_up(target, file).await?;
            }
            Some(sales)
        }
    };
    build::build(target, &inspection, options.history.as_deref()).await?;
    let run = NewRun {
        started_at,
        source: options.source.address.to_string(),
        server_version: inspection.server_version.clone(),
        time_zone: zone.name.clone(),
        snapshot_position,
        history: options.history.clone(),
        discarded_sales,
    };
    let run_id = run.record(target).await?;

    progress(Event::Step { step: "verify" });
    let imported = ImportedRun {
        id: run_id,
        source: run.source.clone(),
        finished_at: String::new(),
        zone,
        history: run.history.clone(),
        tables: Vec::new(),
    };
    let verification = verify::verify(source, target, &inspection, &imported).await?;
    if verification.differences.is_empty() {
        run.finish(target, run_id, &verification.tables, &options.operator).await?;
        target::execute(target, "commit").await?;
        let tables: Vec<&str> = inspection.tables.iter().map(|table| table.name).collect();
        let analyze = format!("analyze {}, card_stock", tables.join(", "));
        if let Err(error) = target::execute(target, analyze).await {
            progress(Event::Note { text: format!("the import is complete, but ANALYZE failed: {error}") });
        }
    }
    let (verification, run_id) = (Some(verification), Some(run_id));
    Ok(ImportResult { findings, undecided, verification, run_id, unchanged_since: None })
}

/// Stages MOR's rows, unless an interrupted import has staged them as they are now.
async fn stage_rows(
    options: &ImportOptions,
    source: &mut Source,
    target: &mut PgConnection,
    inspection: &Inspection,
    zone: &TimeZone,
    progress: &mut impl FnMut(Event),
) -> Result<(), ImportError> {
    let fingerprint = reuse::fingerprint(&options.source.address.to_string(), inspection, zone, &options.stage);
    if reuse::prepare(source, target, inspection, &fingerprint).await? {
        let text = "the rows that the interrupted import has staged are used again: MOR has the same rows".to_owned();
        progress(Event::Note { text });
    } else {
        stage::create_schema(target, inspection, zone).await?;
        stage::stage(source, target, inspection, &options.stage, progress).await?;
        reuse::mark_complete(target, &fingerprint).await?;
    }
    if inspection.has_calls_by_card {
        stage::stage_called_cards(source, target).await?;
    }
    Ok(())
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
