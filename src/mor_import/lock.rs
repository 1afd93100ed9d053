//! Who may use the database while an import runs.

use std::time::Duration;

use sqlx::{PgConnection, PgPool};

use crate::db::{self, session};
use crate::mor_import::error::ImportError;
use crate::mor_import::target;

/// PostgreSQL ends the session of a killed program within a second. An import waits 5 seconds for it.
const POLLS_MAX: u32 = 50;
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// One import at a time: a second one would drop the staged tables of the first.
///
/// # Errors
///
/// If another import or a comparison runs.
pub async fn lock_imports(target: &mut PgConnection) -> Result<(), ImportError> {
    wait_for_lock(target, "select pg_try_advisory_lock(hashtextextended('mortise import', 0))").await
}

/// No import during a comparison: it would replace the rows that are compared.
///
/// # Errors
///
/// If an import runs.
pub async fn lock_out_imports(target: &mut PgConnection) -> Result<(), ImportError> {
    wait_for_lock(target, "select pg_try_advisory_lock_shared(hashtextextended('mortise import', 0))").await
}

async fn wait_for_lock(target: &mut PgConnection, try_lock: &'static str) -> Result<(), ImportError> {
    for _ in 0..POLLS_MAX {
        if sqlx::query_scalar(try_lock).fetch_one(&mut *target).await? {
            return Ok(());
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    Err(ImportError::refused("another import or comparison runs on this database: wait for its end"))
}

/// Excludes servers and other commands until the session of the import ends. `pool` is closed: its connections exclude
/// the import too.
///
/// # Errors
///
/// If a server or another command uses the database.
pub async fn exclude_others(target: &mut PgConnection, pool: &PgPool) -> Result<(), ImportError> {
    pool.close().await;
    for _ in 0..POLLS_MAX {
        if session::try_exclude_others(target).await? {
            return Ok(());
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    Err(ImportError::refused("a server or another command uses the database: stop it first"))
}

/// Only a new database is filled. What a first start writes does not count: see [`target::find_used_table`].
///
/// # Errors
///
/// If a table has other rows.
pub fn require_unused(used_table: Option<&str>) -> Result<(), ImportError> {
    match used_table {
        None => Ok(()),
        Some(table) => Err(ImportError::refused(format!(
            "the database is in use: the table {table} has rows that a first start does not write. Import into a new \
             database, or replace its rows with --replace"
        ))),
    }
}

/// Migrates a new database. The operator of a database that is in use decides when it is migrated.
///
/// # Errors
///
/// If the database is in use, and its schema is not up to date.
pub async fn prepare_schema(pool: &PgPool, is_replaced: bool) -> Result<(), ImportError> {
    if db::missing_migrations(pool).await?.is_empty() {
        return Ok(());
    }
    let used_table = target::find_used_table(&mut target::connect(pool).await?).await?;
    if used_table.is_some() && is_replaced {
        // Names the command that migrates.
        return Ok(db::require_current_schema(pool).await?);
    }
    require_unused(used_table)?;
    db::migrate(pool).await?;
    Ok(())
}
