//! The rules that hold in the ledger after anything (`ledger.md`), checked in SQL.
//!
//! The rule about the sum of all balances needs the sum at an earlier time: it cannot be checked in one database.

use sqlx::PgConnection;

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
    let after_id = match scope {
        Scope::All => i64::MIN,
        Scope::Latest(count) => {
            let last = sqlx::query_scalar!(r#"select coalesce(max(id), 0) as "last!" from payments"#);
            last.fetch_one(&mut *connection).await? - count
        }
    };
    sqlx::query_file_scalar!("src/back_office/ledger.sql", after_id).fetch_all(connection).await
}
