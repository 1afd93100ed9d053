//! `mortise audit`: searches the audit trail.

use std::time::Duration;

use clap::Args;
use serde::Serialize;

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

/// An audit row.
#[derive(Debug, Serialize)]
struct ActionRow {
    id: i64,
    date: String,
    user_id: i32,
    user: Option<String>,
    action: String,
    target_type: Option<String>,
    target_id: Option<i64>,
    data: Vec<String>,
}

/// Runs the command.
pub async fn run(options: &Options, config: &Config) -> Result<Report, CommandError> {
    let mut rows = with_database(config, async |pool| {
        let user = match &options.user {
            Some(name) => Some(find_user(pool, name).await?.id),
            None => None,
        };
        let card_ids = match &options.card {
            Some(number) => Some(find_card_ids(pool, number).await?),
            None => None,
        };
        let mut transaction = begin_read_only(pool).await?;
        let rows = sqlx::query_as!(
            ActionRow,
            r#"select a.id, to_char(a.date, 'YYYY-MM-DD HH24:MI:SS') as "date!", a.user_id, u.username as "user?", a.action,
                   nullif(a.target_type, '') as target_type, a.target_id,
                   array_remove(array_remove(array[a.data, a.data2, a.data3, a.data4], null), '') as "data!"
               from actions a left join users u on u.id = a.user_id
               where ($1::double precision is null or a.date >= (now() at time zone 'utc') - make_interval(secs => $1))
                   and ($2::integer is null or a.user_id = $2 or fold_case(a.target_type) = 'user' and a.target_id = $2)
                   and ($3::text is null or strpos(fold_case(a.action || ' ' || coalesce(a.data, '')), fold_case($3)) > 0)
                   and ($4::bigint[] is null or fold_case(a.target_type) = 'card' and a.target_id = any ($4)
                       or a.action = 'card_payment_created' and a.data = any ($4::text[])
                       or fold_case(a.target_type) = 'voucher' and a.data2 = any ($4::text[]))
               order by a.id desc limit $5"#,
            options.since.map(|since| since.as_secs_f64()),
            user,
            options.action,
            card_ids.as_deref(),
            i64::from(options.limit)
        );
        Ok(rows.fetch_all(&mut *transaction).await?)
    })
    .await?;
    rows.reverse();
    Ok(Report::table(["DATE (UTC)", "USER", "ACTION", "TARGET", "DATA"], &rows, |row| {
        let target = row.target_id.map(|id| format!("{} {id}", row.target_type.as_deref().unwrap_or_default()));
        [
            row.date.clone(),
            row.user.clone().unwrap_or_else(|| if row.user_id < 0 { "-".to_owned() } else { row.user_id.to_string() }),
            row.action.clone(),
            target.or_else(|| row.target_type.clone()).unwrap_or_default(),
            row.data.join(", "),
        ]
    }))
}

/// Returns the ids of the cards with the number, including deleted ones.
async fn find_card_ids(pool: &sqlx::PgPool, number: &str) -> Result<Vec<i64>, CommandError> {
    let mut transaction = begin_read_only(pool).await?;
    let ids = sqlx::query_scalar!(
        r#"select id as "id!" from cards where number = $1 and hidden = 0 and quarantined_at is null
               union all
               select id from cards where number = $1 and (hidden <> 0 or quarantined_at is not null)"#,
        number
    )
    .fetch_all(&mut *transaction)
    .await?;
    if ids.is_empty() { Err(CommandError::NotFound(format!("there is no card {number}"))) } else { Ok(ids) }
}
