//! The checks of the database that is backed up or was restored.

use std::collections::BTreeMap;

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::contents::Table;
use crate::back_office::ledger;
use crate::db::schema::{Severity, find_differences};

/// The result of the checks.
pub(super) struct Findings {
    pub missing_migrations: usize,
    pub waiting_mails: i64,
    pub problems: Vec<String>,
}

/// Returns the number of rows of each table of all schemas. `None`: the table is part of an extension, which decides
/// what a dump has of it.
pub(super) async fn count_rows(connection: &mut PgConnection) -> sqlx::Result<BTreeMap<Table, Option<u64>>> {
    let tables = sqlx::query!(
        r#"select n.nspname::text as "schema!", c.relname::text as "name!", format('%I.%I', n.nspname, c.relname) as "quoted!",
               exists (
                   select from pg_depend d
                   where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e') as "is_of_extension!"
           from pg_class c join pg_namespace n on n.oid = c.relnamespace
           where c.relkind = 'r' and c.relpersistence <> 't' and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
           order by 1, 2"#
    );
    let mut rows = BTreeMap::new();
    for table in tables.fetch_all(&mut *connection).await? {
        let count = if table.is_of_extension {
            None
        } else {
            let query = AssertSqlSafe(format!("select count(*) from only {}", table.quoted));
            let count: i64 = sqlx::query_scalar(query).fetch_one(&mut *connection).await?;
            Some(u64::try_from(count).unwrap_or(0))
        };
        rows.insert(Table { schema: table.schema, name: table.name }, count);
    }
    Ok(rows)
}

/// Checks the schema, the stock and the ledger, unless the schema lacks migrations. A check that fails is a problem of
/// the data, and not an error: the backup is made all the same.
pub(super) async fn check_database(missing_migrations: usize, connection: &mut PgConnection) -> Findings {
    let mut findings = Findings { missing_migrations, waiting_mails: 0, problems: Vec::new() };
    if missing_migrations == 0
        && let Err(error) = findings.collect(connection).await
    {
        findings.problems.push(format!("a check failed, and those after it were left out: {error}"));
    }
    findings
}

impl Findings {
    /// In a savepoint: an error does not end the transaction, whose snapshot `pg_dump` needs.
    async fn collect(&mut self, connection: &mut PgConnection) -> sqlx::Result<()> {
        let mut savepoint = connection.begin().await?;
        let differences = find_differences(&mut *savepoint).await?;
        let differences = differences.into_iter().filter(|difference| difference.severity != Severity::Minor);
        self.problems.extend(differences.map(|difference| difference.message));
        let stock = sqlx::query_scalar!(r#"select count(*) as "count!" from card_stock_differences"#);
        match stock.fetch_one(&mut *savepoint).await? {
            0 => {}
            count => self.problems.push(format!("{count} cards are in stock but cannot be sold, or the reverse")),
        }
        self.problems.extend(ledger::find_violations(&mut savepoint, ledger::Scope::All).await?);
        let waiting = sqlx::query_scalar!(
            r#"select count(*) as "count!" from email_outbox where sent_at is null and failed_at is null"#
        );
        self.waiting_mails = waiting.fetch_one(&mut *savepoint).await?;
        savepoint.commit().await
    }
}
