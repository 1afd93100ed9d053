//! Checks of the schema: migrations and objects.

use sqlx::{Connection, PgConnection, PgPool};

use super::{Check, join_limited};
use crate::db;
use crate::db::schema::{Severity, find_differences};

/// Checks that all migrations of this program are applied, and no newer ones.
pub async fn check_migrations(pool: &PgPool) -> Check {
    match db::missing_migrations(pool).await {
        Ok(missing) if missing.is_empty() => Check::ok("schema", "all migrations are applied"),
        Ok(missing) => {
            let missing: Vec<String> = missing.iter().map(i64::to_string).collect();
            let message = format!("missing migrations: {}", join_limited(&missing));
            Check::problem("schema", message, "run `mortise migrate`, or start the server with migrate = \"on\"")
        }
        Err(error) => {
            let advice = "use the version of Mortise that used this database last, or a newer one";
            Check::problem("schema", error.to_string(), advice)
        }
    }
}

/// Checks whether an interrupted import has left its copy of MOR's data.
pub async fn check_staged_rows(connection: &mut PgConnection) -> sqlx::Result<Vec<Check>> {
    let exists: bool =
        sqlx::query_scalar("select to_regnamespace('mor_import') is not null").fetch_one(connection).await?;
    Ok(exists
        .then(|| {
            let message = "the schema mor_import of an unfinished import has a copy of MOR's data, with all PINs";
            let advice = "start `mortise import` again, or run `drop schema mor_import cascade`";
            Check::warning("import", message, advice)
        })
        .into_iter()
        .collect())
}

/// Compares tables, columns, constraints, indexes, triggers, functions, views and sequences with the migrations. One
/// check for each difference, or one that everything is as it must be.
pub async fn check_objects(connection: &mut PgConnection) -> sqlx::Result<Vec<Check>> {
    let differences = find_differences(&mut *connection).await?;
    if differences.is_empty() {
        return Ok(vec![Check::ok(
            "objects",
            "tables, constraints, indexes, triggers and functions match the migrations",
        )]);
    }
    let mut checks = Vec::new();
    for difference in differences {
        let violations = match &difference.violations_query {
            Some(query) => find_violations(connection, query).await?,
            None => Vec::new(),
        };
        let check = if difference.severity == Severity::Minor && violations.is_empty() {
            Check::warning
        } else {
            Check::problem
        };
        let rows = if violations.is_empty() {
            String::new()
        } else {
            format!("; the rows with these ids violate it: {}", join_limited(&violations))
        };
        checks.push(check("objects", difference.message + &rows, difference.advice));
    }
    Ok(checks)
}

/// Returns the ids of rows that violate a check. None if the table has no such columns any more, which is a difference
/// of its own.
async fn find_violations(connection: &mut PgConnection, query: &str) -> sqlx::Result<Vec<String>> {
    let mut savepoint = connection.begin().await?;
    // The query consists of names and conditions from the program's own description of the schema.
    let query = sqlx::query_scalar(sqlx::AssertSqlSafe(query.to_owned()));
    match query.fetch_all(&mut *savepoint).await {
        Ok(ids) => Ok(ids),
        Err(sqlx::Error::Database(_)) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
