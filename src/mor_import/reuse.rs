//! The staged rows of an interrupted import, which the next run uses again if MOR's rows are still the same.

use sha2::{Digest, Sha256};
use sqlx::PgConnection;

use crate::mor_import::checksum::ComparedTable;
use crate::mor_import::error::ImportError;
use crate::mor_import::inspect::Inspection;
use crate::mor_import::source::Source;
use crate::mor_import::stage::StageOptions;
use crate::mor_import::target::{self, execute};
use crate::mor_import::time_zone::TimeZone;

/// Keeps the tables of the staging step, and the findings that it made.
const RESET: &str = "
    do $$
    declare
        derived text;
    begin
        select string_agg(format('mor_import.%I', relname), ', ') into derived
        from pg_class
        where relnamespace = 'mor_import'::regnamespace and relkind = 'r'
            and relname not in ('findings', 'salt', 'staging', 'called_cards')
            and not exists (select from mor_import.staging where relname = any (tables));
        if derived is not null then
            execute 'drop table ' || derived;
        end if;
    end $$;
    delete from mor_import.findings where not is_applied;
    update mor_import.findings set decision = 'default';
    truncate mor_import.called_cards";

/// A digest of what the staged rows depend on, besides MOR's rows.
pub fn fingerprint(source: &str, inspection: &Inspection, zone: &TimeZone, options: &StageOptions) -> String {
    let tables: Vec<_> = inspection.tables.iter().map(|table| (table.name, &table.columns)).collect();
    let text = format!("{} {source} {zone:?} {:?} {tables:?}", env!("CARGO_PKG_VERSION"), options.charset_repair);
    hex::encode(Sha256::digest(text))
}

/// Marks the staging as complete.
pub async fn mark_complete(target: &mut PgConnection, fingerprint: &str) -> Result<(), ImportError> {
    sqlx::query("insert into mor_import.staging (fingerprint, tables) values ($1, $2)")
        .bind(fingerprint)
        .bind(target::TABLES.as_slice())
        .execute(target)
        .await?;
    Ok(())
}

/// Whether an interrupted import has staged all rows as they are in MOR now. Then the results of its later steps are
/// dropped.
pub async fn prepare(
    source: &mut Source,
    target: &mut PgConnection,
    inspection: &Inspection,
    fingerprint: &str,
) -> Result<bool, ImportError> {
    let exists: bool =
        sqlx::query_scalar("select to_regclass('mor_import.staging') is not null").fetch_one(&mut *target).await?;
    if !exists {
        return Ok(false);
    }
    let is_complete: bool = sqlx::query_scalar("select exists (select from mor_import.staging where fingerprint = $1)")
        .bind(fingerprint)
        .fetch_one(&mut *target)
        .await?;
    if !is_complete {
        return Ok(false);
    }
    for table in &inspection.tables {
        let altered = sqlx::query_scalar(
            r#"select distinct "column" from mor_import.findings where is_applied and "table" = $1"#,
        );
        let altered = altered.bind(table.name).fetch_all(&mut *target).await?;
        let columns = table.read_columns().map(|(column, _)| column).collect();
        let compared = ComparedTable { name: table.name, columns, altered, left_out: Vec::new(), history: None };
        // Unlogged tables are empty after a crash of PostgreSQL.
        if compared.source_sums(source).await? != compared.staged_sums(target).await? {
            return Ok(false);
        }
    }
    execute(target, RESET).await?;
    Ok(true)
}
