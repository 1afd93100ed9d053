//! Checks of the schema: migrations and indexes.

use std::collections::BTreeSet;

use sqlx::{PgConnection, PgPool};

use super::{Check, join_limited};
use crate::db;

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

/// Checks that every index exists and is valid: without one, a sale can scan a whole table.
pub async fn check_indexes(connection: &mut PgConnection) -> sqlx::Result<Check> {
    let indexes = sqlx::query!(
        r#"select c.relname::text as "name!", i.indisvalid as "valid!" from pg_index i join pg_class c on c.oid = i.indexrelid
           where c.relnamespace = current_schema()::regnamespace order by 1"#
    );
    let indexes = indexes.fetch_all(connection).await?;
    let invalid: Vec<String> = indexes.iter().filter(|index| !index.valid).map(|index| index.name.clone()).collect();
    let expected = expected_indexes();
    let missing: Vec<String> =
        expected.iter().filter(|name| !indexes.iter().any(|index| index.name == **name)).cloned().collect();
    Ok(if !invalid.is_empty() {
        Check::problem(
            "indexes",
            format!("invalid: {}", join_limited(&invalid)),
            "run `reindex index concurrently NAME`",
        )
    } else if !missing.is_empty() {
        let advice = "create them again as in migrations/*.sql, with `create index concurrently`";
        Check::problem("indexes", format!("missing: {}", join_limited(&missing)), advice)
    } else {
        Check::ok("indexes", format!("all {} exist and are valid", expected.len()))
    })
}

/// Returns the final names of the indexes that the migrations create and do not drop.
fn expected_indexes() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for sql in db::migration_sql() {
        let without_comments: String =
            sql.lines().map(|line| line.split("--").next().unwrap_or_default().to_lowercase() + " ").collect();
        let tokens: Vec<&str> = without_comments.split_whitespace().collect();
        for start in 0..tokens.len() {
            match tokens[start..] {
                ["create", "index", name, "on", ..] | ["create", "unique", "index", name, "on", ..] => {
                    names.insert(name.to_owned());
                }
                ["alter", "index", old, "rename", "to", new, ..] => {
                    names.remove(old);
                    names.insert(new.trim_end_matches(';').to_owned());
                }
                ["drop", "index", name, ..] => {
                    names.remove(name.trim_end_matches(';'));
                }
                _ => {}
            }
        }
    }
    names
}
