//! The check of the outbox.

use sqlx::PgConnection;

use super::Check;

/// Warning threshold for the age of the oldest unsent e-mail, as in the alert `MortiseMailStuck`.
const AGE_MAX_S: i64 = 900;

/// Checks that no e-mail waits for long, and that none has failed within the last day.
pub async fn check_outbox(connection: &mut PgConnection) -> sqlx::Result<Check> {
    let row = sqlx::query!(
        r#"select count(*) filter (where failed_at is null) as "waiting!",
               coalesce(max(extract(epoch from now() at time zone 'utc' - created_at)) filter (where failed_at is null), 0)::bigint
                   as "oldest_age_s!",
               count(*) filter (where failed_at is not null) as "failed!"
           from email_outbox
           where sent_at is null and (failed_at is null or failed_at > now() at time zone 'utc' - interval '1 day')"#
    );
    let row = row.fetch_one(connection).await?;
    let waiting = format!("e-mails waiting: {}, the oldest for {} min", row.waiting, row.oldest_age_s / 60);
    let advice = "run `mortise mail list`, which shows the reasons; then `mortise mail retry ID`";
    Ok(if row.failed > 0 {
        let message = format!("{waiting}; failed permanently within a day: {}", row.failed);
        Check::warning("mail", message, advice)
    } else if row.oldest_age_s > AGE_MAX_S {
        Check::warning("mail", waiting, advice)
    } else if row.waiting > 0 {
        Check::ok("mail", waiting)
    } else {
        Check::ok("mail", "no e-mail waits")
    })
}
