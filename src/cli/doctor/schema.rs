//! The schema: whether it is all there.

use std::collections::BTreeSet;

use sqlx::{PgConnection, PgPool};

use super::{Check, join_limited};
use crate::db;

/// Whether the schema is this program's.
pub async fn check_migrations(pool: &PgPool) -> Check {
    match db::missing_migrations(pool).await {
        Ok(missing) if missing.is_empty() => Check::ok("schema", "every migration was carried out"),
        Ok(missing) => {
            let missing: Vec<String> = missing.iter().map(i64::to_string).collect();
            let says = format!("migrations are missing: {}", join_limited(&missing));
            Check::problem("schema", says, "run `mortise migrate`, or start the server with migrate = \"on\"")
        }
        Err(error) => Check::problem("schema", error.to_string(), "run the Mortise that used it last, or a newer one"),
    }
}

/// Whether every index is there and whole: without one, a sale may take as long as the table is large.
pub async fn check_indexes(connection: &mut PgConnection) -> sqlx::Result<Check> {
    let found = sqlx::query!(
        r#"select c.relname::text as "name!", i.indisvalid as "valid!" from pg_index i join pg_class c on c.oid = i.indexrelid
           where c.relnamespace = current_schema()::regnamespace order by 1"#
    );
    let found = found.fetch_all(connection).await?;
    let invalid: Vec<String> = found.iter().filter(|index| !index.valid).map(|index| index.name.clone()).collect();
    let expected = expected_indexes();
    let missing: Vec<String> =
        expected.iter().filter(|name| !found.iter().any(|index| index.name == **name)).cloned().collect();
    Ok(if !invalid.is_empty() {
        Check::problem(
            "indexes",
            format!("can't be used: {}", join_limited(&invalid)),
            "`reindex index concurrently NAME`",
        )
    } else if !missing.is_empty() {
        let advice = "make them again as migrations/*.sql has them (`create index concurrently`)";
        Check::problem("indexes", format!("missing: {}", join_limited(&missing)), advice)
    } else {
        Check::ok("indexes", format!("all {} are there and whole", expected.len()))
    })
}

/// The names of the indexes that the migrations make and leave.
fn expected_indexes() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for sql in db::migration_sql() {
        let plain: String =
            sql.lines().map(|line| line.split("--").next().unwrap_or_default().to_lowercase() + " ").collect();
        let words: Vec<&str> = plain.split_whitespace().collect();
        for at in 0..words.len() {
            match words[at..] {
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
