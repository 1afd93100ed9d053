//! `mortise audit`: searches the audit trail, which consists of the tables `actions` and `change_log`.

use std::time::Duration;

use clap::Args;
use serde::Serialize;
use serde_json::Value;
use sqlx::PgPool;

use super::database::{begin_read_only, with_database};
use super::{CommandError, Report, find_user};
use crate::config::Config;

/// The filters. A row must match all of them.
#[derive(Debug, Args)]
pub struct Options {
    /// Only rows not older than this: 30m, 12h, 7d
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    since: Option<Duration>,
    /// Only actions by this user or on this user
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Only rows whose action or error contains this text
    #[arg(long, value_name = "TEXT")]
    action: Option<String>,
    /// Only rows about the card with this number
    #[arg(long, value_name = "NUMBER")]
    card: Option<String>,
    /// Print the latest N rows, oldest first
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: u32,
}

/// A row of one of the two tables.
#[derive(Debug, Serialize)]
struct AuditRow {
    /// `actions` or `change_log`.
    table: String,
    id: i64,
    date: String,
    /// The API user. `None`: a command.
    user_id: Option<i32>,
    /// The name of the user, or `command` with the name of the operating system's user.
    user: Option<String>,
    /// The action; for a change what was changed: `card_changed`.
    action: String,
    target_type: Option<String>,
    target_id: Option<i64>,
    target_name: Option<String>,
    data: Vec<String>,
    /// The changed fields before the change, as JSON.
    #[serde(serialize_with = "serialize_json")]
    before: Option<String>,
    /// The changed fields after the change, as JSON.
    #[serde(serialize_with = "serialize_json")]
    after: Option<String>,
    request_id: Option<String>,
}

/// Writes the text of a JSON value as this value.
fn serialize_json<S: serde::Serializer>(text: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    text.as_deref().and_then(|text| serde_json::from_str::<Value>(text).ok()).serialize(serializer)
}

/// Runs the command.
pub async fn run(options: &Options, config: &Config) -> Result<Report, CommandError> {
    let mut rows = with_database(config, async |pool| {
        let user = match &options.user {
            Some(name) => Some(find_user(pool, name).await?.id),
            None => None,
        };
        let cards = match &options.card {
            Some(number) => Some(find_cards(pool, number).await?),
            None => None,
        };
        let card_ids = cards.as_ref().map(|cards| cards.iter().map(|card| card.id).collect::<Vec<_>>());
        let card_groups = cards.as_ref().map(|cards| cards.iter().map(|card| card.cardgroup_id).collect::<Vec<_>>());
        let mut transaction = begin_read_only(pool).await?;
        let rows = sqlx::query_file_as!(
            AuditRow,
            "src/cli/audit.sql",
            options.since.map(|since| since.as_secs_f64()),
            user,
            options.action,
            card_ids.as_deref(),
            card_groups.as_deref(),
            options.card,
            i64::from(options.limit)
        );
        Ok(rows.fetch_all(&mut *transaction).await?)
    })
    .await?;
    rows.reverse();
    Ok(Report::table(["DATE (UTC)", "USER", "ACTION", "TARGET", "DATA"], &rows, |row| {
        [row.date.clone(), row.author(), row.action.clone(), row.target(), row.details()]
    }))
}

impl AuditRow {
    fn author(&self) -> String {
        let id = self.user_id.filter(|id| *id >= 0).map(|id| id.to_string());
        self.user.clone().or(id).unwrap_or_else(|| "-".to_owned())
    }

    fn target(&self) -> String {
        let name = self.target_name.clone().or(self.target_id.map(|id| id.to_string()));
        [self.target_type.clone(), name].into_iter().flatten().collect::<Vec<_>>().join(" ")
    }

    /// The data of an action, or the changed fields: `{"blocked":0} -> {"blocked":1}`.
    fn details(&self) -> String {
        match (&self.before, &self.after) {
            (Some(before), Some(after)) => format!("{before} -> {after}"),
            (None, Some(json)) | (Some(json), None) => json.clone(),
            (None, None) => self.data.join(", "),
        }
    }
}

/// A card with the searched number.
struct NumberedCard {
    id: i64,
    cardgroup_id: i32,
}

/// Returns the cards with the number, including deleted and quarantined ones.
async fn find_cards(pool: &PgPool, number: &str) -> Result<Vec<NumberedCard>, CommandError> {
    let mut transaction = begin_read_only(pool).await?;
    let cards = sqlx::query_as!(NumberedCard, "select id, cardgroup_id from cards where number = $1", number);
    let cards = cards.fetch_all(&mut *transaction).await?;
    if cards.is_empty() { Err(CommandError::NotFound(format!("there is no card {number}"))) } else { Ok(cards) }
}
