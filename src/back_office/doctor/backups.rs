//! The check of the age of the last backup.

use sqlx::PgConnection;

use super::Check;

/// Warning threshold: with a backup every day, one was missed.
const AGE_MAX_HOURS: i64 = 48;

/// Checks when `mortise backup` wrote the last backup. Backups that are made in another way are not known.
pub async fn check_age(connection: &mut PgConnection) -> sqlx::Result<Check> {
    let last = sqlx::query!(
        r#"select file, to_char(finished_at, 'YYYY-MM-DD HH24:MI') as "finished_at!",
               extract(epoch from now() at time zone 'utc' - finished_at)::bigint / 3600 as "age_hours!"
           from backups order by finished_at desc limit 1"#
    );
    let advice = "run `mortise backup FILE` every day, and keep the files on another machine";
    Ok(match last.fetch_optional(connection).await? {
        None => Check::warning("backup", "no backup was made with `mortise backup`", advice),
        Some(last) => {
            let message = format!("the last backup is of {} UTC ({})", last.finished_at, last.file);
            if last.age_hours > AGE_MAX_HOURS {
                Check::warning("backup", message, advice)
            } else {
                Check::ok("backup", message)
            }
        }
    })
}
