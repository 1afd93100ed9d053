//! The last refused hashes of a user, from the audit rows in the table `actions`.

use percent_encoding::percent_decode_str;
use serde::Serialize;
use sqlx::PgExecutor;

/// How many days are searched.
pub const DAYS: i32 = 7;
/// The maximum number of audit rows that are read.
const READ_MAX: i64 = 500;
/// The maximum number of refusals that are returned, of each kind.
const FOUND_MAX: usize = 20;

/// A refused request. The time is in UTC.
#[derive(Debug, Serialize)]
pub struct Refusal {
    /// The time.
    pub at: String,
    /// The reason, in MOR's words.
    pub reason: String,
    /// The URL, with secrets masked.
    pub url: String,
    /// The client's address.
    pub client: String,
    /// The names of the parameters.
    pub parameters: String,
}

/// The last refusals.
#[derive(Debug, Default, Serialize)]
pub struct Refusals {
    /// Those with the user's name in the URL, the last one first.
    pub of_user: Vec<Refusal>,
    /// Those without any user name in the URL, such as every POST: the audit row does not say whose they are.
    pub of_unknown: Vec<Refusal>,
}

/// Finds the last refusals of a user, in the last [`DAYS`].
///
/// # Errors
///
/// Database errors.
pub async fn find(executor: impl PgExecutor<'_>, username: &str) -> sqlx::Result<Refusals> {
    let rows = sqlx::query_as!(
        Refusal,
        r#"select to_char(date, 'YYYY-MM-DD HH24:MI:SS') as "at!", data as "reason!", coalesce(data2, '') as "url!",
               coalesce(data3, '') as "client!", coalesce(data4, '') as "parameters!"
           from actions
           where user_id = -1 and action = 'error' and data in ('API : Incorrect hash', 'API : API must have Secret key')
               and date >= now() at time zone 'utc' - make_interval(days => $1)
           order by date desc limit $2"#,
        DAYS,
        READ_MAX
    );
    let mut refusals = Refusals::default();
    for row in rows.fetch_all(executor).await? {
        let list = match user_in(&row.url) {
            Some(name) if is_same_name(&name, username) => &mut refusals.of_user,
            Some(_) => continue,
            None => &mut refusals.of_unknown,
        };
        if list.len() < FOUND_MAX {
            list.push(row);
        }
    }
    Ok(refusals)
}

/// Returns the parameter `u` of a URL.
fn user_in(url: &str) -> Option<String> {
    let (_, query) = url.split_once('?')?;
    let value = query.split(['&', ';']).find_map(|pair| pair.strip_prefix("u="))?;
    Some(percent_decode_str(&value.replace('+', " ")).decode_utf8_lossy().into_owned())
}

/// Whether the names are those of one user: letter case and trailing spaces are ignored.
fn is_same_name(a: &str, b: &str) -> bool {
    a.trim_end().to_lowercase() == b.trim_end().to_lowercase()
}
