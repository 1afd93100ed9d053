//! The rules that hold in the ledger after anything (`ledger.md`), checked in SQL.
//!
//! The rule about the sum of all balances needs the sum at an earlier time: it cannot be checked in one database.

use sqlx::{Connection, PgConnection};

/// Settings for a sample: its payments, and those that they name, are found by indexes, also if the statistics are
/// missing or old.
const READ_BY_INDEX: &str = "set local enable_seqscan = off; set local enable_bitmapscan = off;
    set local enable_hashjoin = off; set local enable_mergejoin = off";

/// The payments to check. All cards are checked in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All payments.
    All,
    /// This number of latest payments.
    Latest(i64),
}

/// Returns up to ten violations of each rule, in words.
///
/// # Errors
///
/// Database errors.
pub async fn find_violations(connection: &mut PgConnection, scope: Scope) -> sqlx::Result<Vec<String>> {
    let mut violations = sqlx::query_scalar!(
        r#"select 'the retired card ' || coalesce(number, '') || ' (id ' || id || ') has a balance' as "violation!"
           from cards where retired_at is not null and coalesce(balance, 0) <> 0 limit 10"#
    )
    .fetch_all(&mut *connection)
    .await?;
    // The settings end with the savepoint.
    let mut savepoint = connection.begin().await?;
    let after_id = match scope {
        Scope::All => i64::MIN,
        Scope::Latest(count) => {
            sqlx::raw_sql(READ_BY_INDEX).execute(&mut *savepoint).await?;
            let last = sqlx::query_scalar!(r#"select coalesce(max(id), 0) as "last!" from payments"#);
            last.fetch_one(&mut *savepoint).await? - count
        }
    };
    let of_payments = sqlx::query_file_scalar!("src/back_office/ledger.sql", after_id);
    violations.extend(of_payments.fetch_all(&mut *savepoint).await?);
    savepoint.rollback().await?;
    Ok(violations)
}
