//! `mortise reconcile`: compares MOR's database with the rows that the last import brought.

use sqlx::{PgConnection, PgPool};

use crate::mor_import::error::ImportError;
use crate::mor_import::imported_run::ImportedRun;
use crate::mor_import::progress::Event;
use crate::mor_import::source::{Source, SourceOptions};
use crate::mor_import::verify::{self, Verification};
use crate::mor_import::{inspect, lock, target};

/// Compares MOR's database with the rows that the last import brought.
///
/// # Errors
///
/// If the database was not filled by an import, or another import runs.
pub async fn reconcile(
    options: &SourceOptions,
    pool: &PgPool,
    progress: impl FnMut(Event),
) -> Result<Verification, ImportError> {
    let mut source = Source::connect(options).await?;
    let mut target = target::connect(pool).await?;
    lock::lock_out_imports(&mut target).await?;
    let run = ImportedRun::load(&mut target).await?;
    let run = run
        .ok_or_else(|| ImportError::refused("this database was not filled by `mortise import`: nothing to compare"))?;
    let verification = compare(&mut source, &mut target, &run, progress).await?;
    source.close().await;
    Ok(verification)
}

/// Compares both databases, each in one snapshot. The tables of Mortise can be in use.
pub async fn compare(
    source: &mut Source,
    target: &mut PgConnection,
    run: &ImportedRun,
    mut progress: impl FnMut(Event),
) -> Result<Verification, ImportError> {
    progress(Event::Step { step: "inspect" });
    let inspection = inspect::inspect(source, target).await?;
    source.begin_snapshot().await?;
    target::execute(target, "begin isolation level repeatable read, read only").await?;
    progress(Event::Step { step: "verify" });
    let verification = verify::verify(source, target, &inspection, run).await?;
    target::execute(target, "commit").await?;
    Ok(verification)
}
