//! `mortise migrate`: the schema brought up to date, for those who keep starts and changes of the schema apart.

use serde_json::json;

use super::database::with_new_or_existing;
use super::{CommandError, Report};
use crate::config::Config;
use crate::db;

/// Brings the schema up to date, and tells by which migrations.
pub async fn run(config: &Config) -> Result<Report, CommandError> {
    with_new_or_existing(config, async |pool| {
        let carried_out = db::migrate(pool).await?;
        let text = match carried_out.as_slice() {
            [] => "The schema is up to date.".to_owned(),
            [one] => format!("Migration {one} was carried out; the schema is up to date."),
            [first, .., last] => format!("Migrations {first} to {last} were carried out; the schema is up to date."),
        };
        Ok(Report::new(text, json!({ "carried_out": carried_out })))
    })
    .await
}
