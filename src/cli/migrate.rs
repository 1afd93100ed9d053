//! `mortise migrate`: upgrades the schema, for operators who set `migrate = "off"`.

use serde_json::json;

use super::database::with_new_or_existing;
use super::{CommandError, Report};
use crate::config::Config;
use crate::db;

/// Upgrades the schema and reports the applied migrations.
pub async fn run(config: &Config) -> Result<Report, CommandError> {
    with_new_or_existing(config, async |pool| {
        let applied = db::migrate(pool).await?;
        let text = match applied.as_slice() {
            [] => "The schema is up to date.".to_owned(),
            [one] => format!("Migration {one} was applied; the schema is up to date."),
            [first, .., last] => format!("Migrations {first} to {last} were applied; the schema is up to date."),
        };
        Ok(Report::new(text, json!({ "applied": applied })))
    })
    .await
}
