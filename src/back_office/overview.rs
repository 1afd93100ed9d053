//! What an operator wants to see every day, besides the reports: e-mails that wait or failed, and refused requests.

use serde::Serialize;
use sqlx::PgPool;

use crate::store::pages::BEGIN_READ_BY_INDEX;

/// More rows are not counted: the numbers are then "this many or more".
pub const COUNTED_MAX: i64 = 100_000;
/// The refused requests that are listed.
const LISTED_MAX: i64 = 10;

/// The e-mails to buyers that need attention.
#[derive(Debug, Serialize)]
pub struct MailCounts {
    /// Those that are not sent yet.
    pub waiting: i64,
    /// Those that failed permanently within the last day.
    pub failed: i64,
    /// How long the oldest one waits, in minutes.
    pub oldest_min: i64,
}

/// Counts e-mails for the cards of an owner. `None`: of all.
///
/// # Errors
///
/// Database errors.
pub async fn count_mails(pool: &PgPool, owner: Option<i32>) -> sqlx::Result<MailCounts> {
    let mut transaction = pool.begin_with(BEGIN_READ_BY_INDEX).await?;
    let counts = sqlx::query_as!(
        MailCounts,
        r#"select waiting as "waiting!", failed as "failed!", oldest_min as "oldest_min!"
           from (
               select count(*) as waiting,
                   coalesce(extract(epoch from now() at time zone 'utc' - min(created_at))::bigint / 60, 0) as oldest_min
               from (
                   select created_at from email_outbox
                   where sent_at is null and failed_at is null and ($1::integer is null or owner_id = $1) limit $2
               ) unsent
           ) pending, (
               select count(*) as failed
               from (
                   select from email_outbox
                   where coalesce(sent_at, failed_at) > now() at time zone 'utc' - interval '1 day'
                       and failed_at is not null and ($1 is null or owner_id = $1)
                   limit $2
               ) ended
           ) failures"#,
        owner,
        COUNTED_MAX
    );
    counts.fetch_one(&mut *transaction).await
}

/// The API requests that were refused within the last day because of their hash or a missing key.
#[derive(Debug, Serialize)]
pub struct Refusals {
    /// The number for each reason.
    pub reasons: Vec<RefusalCount>,
    /// The latest ones, the newest first.
    pub latest: Vec<Refusal>,
}

/// Refused requests with the same reason.
#[derive(Debug, Serialize)]
pub struct RefusalCount {
    /// The reason, in MOR's words.
    pub reason: String,
    /// The number of requests.
    pub count: i64,
}

/// A refused request.
#[derive(Debug, Serialize)]
pub struct Refusal {
    /// `YYYY-MM-DD HH:MM:SS` in UTC.
    pub date: String,
    /// The reason, in MOR's words.
    pub reason: String,
    /// The client's address.
    pub client: String,
    /// The URL, with secrets masked.
    pub url: String,
}

/// Returns the refused requests of the last day.
///
/// # Errors
///
/// Database errors.
pub async fn find_refusals(pool: &PgPool) -> sqlx::Result<Refusals> {
    let mut transaction = pool.begin_with(BEGIN_READ_BY_INDEX).await?;
    let reasons = sqlx::query_as!(
        RefusalCount,
        r#"select coalesce(data, '') as "reason!", count(*) as "count!"
           from (
               select data from actions
               where user_id = -1 and action = 'error'
                   and data in ('API : Incorrect hash', 'API : API must have Secret key')
                   and date > now() at time zone 'utc' - interval '1 day'
               order by date desc limit $1
           ) refusals
           group by 1 order by 2 desc, 1"#,
        COUNTED_MAX
    );
    let reasons = reasons.fetch_all(&mut *transaction).await?;
    let latest = sqlx::query_as!(
        Refusal,
        r#"select to_char(date, 'YYYY-MM-DD HH24:MI:SS') as "date!", coalesce(data, '') as "reason!",
               coalesce(data3, '') as "client!", coalesce(data2, '') as "url!"
           from actions
           where user_id = -1 and action = 'error'
               and data in ('API : Incorrect hash', 'API : API must have Secret key')
               and date > now() at time zone 'utc' - interval '1 day'
           order by date desc limit $1"#,
        LISTED_MAX
    );
    let latest = latest.fetch_all(&mut *transaction).await?;
    Ok(Refusals { reasons, latest })
}
