//! The checks of the database that is backed up or was restored.

use std::collections::BTreeMap;

use sqlx::{AssertSqlSafe, PgConnection, PgPool};

use super::count_missing_migrations;
use crate::back_office::{BackOfficeError, ledger};
use crate::db::schema::{Severity, find_differences};

/// The result of the checks.
pub(super) struct Findings {
    pub missing_migrations: usize,
    pub waiting_mails: i64,
    pub problems: Vec<String>,
}

/// Returns the number of rows of each table in the current schema.
pub(super) async fn count_rows(connection: &mut PgConnection) -> Result<BTreeMap<String, u64>, BackOfficeError> {
    let tables = sqlx::query!(
        r#"select relname::text as "name!", quote_ident(relname) as "quoted!" from pg_class
           where relkind = 'r' and relnamespace = quote_ident(current_schema())::regnamespace order by relname"#
    );
    let mut rows = BTreeMap::new();
    for table in tables.fetch_all(&mut *connection).await? {
        let query = AssertSqlSafe(format!("select count(*) from only {}", table.quoted));
        let count: i64 = sqlx::query_scalar(query).fetch_one(&mut *connection).await?;
        rows.insert(table.name, u64::try_from(count).unwrap_or(0));
    }
    Ok(rows)
}

/// Checks the schema, the stock and the ledger. On a schema of an older version, only the list of migrations.
pub(super) async fn check_database(pool: &PgPool, connection: &mut PgConnection) -> Result<Findings, BackOfficeError> {
    let missing_migrations = count_missing_migrations(pool).await?;
    if missing_migrations > 0 {
        return Ok(Findings { missing_migrations, waiting_mails: 0, problems: Vec::new() });
    }
    let differences = find_differences(&mut *connection).await?;
    let differences = differences.into_iter().filter(|difference| difference.severity != Severity::Minor);
    let mut problems: Vec<String> = differences.map(|difference| difference.message).collect();
    let stock = sqlx::query_scalar!(r#"select count(*) as "count!" from card_stock_differences"#);
    match stock.fetch_one(&mut *connection).await? {
        0 => {}
        count => problems.push(format!("{count} cards are in stock but cannot be sold, or the reverse")),
    }
    problems.extend(ledger::find_violations(&mut *connection, ledger::Scope::All).await?);
    let waiting = sqlx::query_scalar!(
        r#"select count(*) as "count!" from email_outbox where sent_at is null and failed_at is null"#
    );
    Ok(Findings { missing_migrations, waiting_mails: waiting.fetch_one(connection).await?, problems })
}
