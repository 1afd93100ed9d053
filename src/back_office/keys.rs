//! The secret keys that sign requests: one for the admin and one for each reseller, and the previous one while it is
//! still valid.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use sqlx::PgConnection;

use super::BackOfficeError;
use super::users::lookup;
use crate::managed_postgres::data_directory::random_hex;
use crate::store::change_log::{Author, Change, Target, What};

/// How long the old key stays valid after a rotation, unless the operator chooses another time.
pub const KEEP_DEFAULT: Duration = Duration::from_hours(7 * 24);

/// Returns a new random key.
///
/// # Errors
///
/// The text for the operator, if there are no random bytes.
pub fn generate() -> Result<SecretString, BackOfficeError> {
    let key = random_hex().map_err(|error| BackOfficeError::Refused(format!("cannot get random bytes: {error}")))?;
    Ok(key.into())
}

/// Why a key was not replaced.
#[derive(Debug, thiserror::Error)]
pub enum ReplaceError {
    /// The previous key is valid until this time (UTC). Only one previous key is valid: the clients that still use it
    /// would be refused at once.
    #[error("the previous key is valid until {0} UTC, and another new key would end it at once")]
    PreviousValid(String),
    /// The time for which the old key stays valid does not fit into the database.
    #[error("the time for which the old key stays valid is too long")]
    TooLong,
    /// The database failed.
    #[error("database error: {0}")]
    Database(#[from] sqlx::Error),
}

/// Replaces the key of an owner of settings, in the caller's transaction. Returns the time (UTC) until which the
/// previous key is valid, if it is.
///
/// # Errors
///
/// [`ReplaceError`].
pub async fn replace(
    connection: &mut PgConnection,
    owner: i32,
    key: &SecretString,
    keep: Duration,
    author: &Author,
) -> Result<Option<String>, ReplaceError> {
    let keep_s = i64::try_from(keep.as_secs()).map_err(|_| ReplaceError::TooLong)?;
    // Two concurrent changes would both store the same key as the previous one.
    sqlx::query!("lock table conflines in share row exclusive mode").execute(&mut *connection).await?;
    if keep_s > 0
        && let Some(until) = find_valid_previous(&mut *connection, owner).await?
    {
        return Err(ReplaceError::PreviousValid(until));
    }
    let until = set_previous(&mut *connection, owner, keep_s).await?;
    sqlx::query!(
        "with changed as (
             update conflines set value = $2 where owner_id = $1 and name = 'API_Secret_Key' returning id)
         insert into conflines (owner_id, name, value) select $1, 'API_Secret_Key', $2
         where not exists (select from changed)",
        owner,
        key.expose_secret()
    )
    .execute(&mut *connection)
    .await?;
    let event = json!({ "key": "replaced", "previous_key_valid_until": until });
    record_event(connection, owner, &event, author).await?;
    Ok(until)
}

/// Returns the time (UTC) until which the previous key is valid, if it is.
async fn find_valid_previous(connection: &mut PgConnection, owner: i32) -> sqlx::Result<Option<String>> {
    let key = sqlx::query!(
        r#"select coalesce(value2, '') as "until!", extract(epoch from now())::bigint as "now!" from conflines
           where owner_id = $1 and name = 'API_Secret_Key_Previous' and value <> '' order by id limit 1"#,
        owner
    );
    let key = key.fetch_optional(connection).await?;
    Ok(key.filter(|key| remaining_seconds(&key.until, key.now) > Some(0)).map(|key| key.until))
}

/// Returns the seconds until a previous key expires, negative after that; `None` if its time is invalid.
///
/// `until`: the text in the database. `now`: the time of the database, in seconds since 1970.
pub fn remaining_seconds(until: &str, now: i64) -> Option<i64> {
    let until = humantime::parse_rfc3339_weak(until.trim()).ok()?;
    let until = until.duration_since(std::time::SystemTime::UNIX_EPOCH).ok()?.as_secs();
    Some(i64::try_from(until).ok()? - now)
}

/// Stores the current key as the previous key for `keep_s` seconds, and deletes the stored previous key. 0 stores none.
async fn set_previous(connection: &mut PgConnection, owner: i32, keep_s: i64) -> Result<Option<String>, ReplaceError> {
    sqlx::query!("delete from conflines where owner_id = $1 and name = 'API_Secret_Key_Previous'", owner)
        .execute(&mut *connection)
        .await?;
    let until = sqlx::query_scalar!(
        r#"insert into conflines (owner_id, name, value, value2)
           select $1, 'API_Secret_Key_Previous', value,
               to_char(now() at time zone 'utc' + $2::bigint * interval '1 second', 'YYYY-MM-DD HH24:MI:SS')
           from (select value from conflines where owner_id = $1 and name = 'API_Secret_Key' order by id limit 1) key
           where value <> '' and $2::bigint > 0
           returning value2 as "until!""#,
        owner,
        keep_s
    );
    until.fetch_optional(connection).await.map_err(|error| match error {
        sqlx::Error::Database(error) if error.code().as_deref() == Some("22008") => ReplaceError::TooLong,
        error => error.into(),
    })
}

/// Ends the validity of the previous key, in the caller's transaction.
///
/// # Errors
///
/// Database errors.
pub async fn end_previous(connection: &mut PgConnection, owner: i32, author: &Author) -> sqlx::Result<()> {
    sqlx::query!("delete from conflines where owner_id = $1 and name = 'API_Secret_Key_Previous'", owner)
        .execute(&mut *connection)
        .await?;
    record_event(connection, owner, &json!({ "previous_key": "ended" }), author).await
}

/// Returns the key of an owner, and records that it was shown.
///
/// # Errors
///
/// [`BackOfficeError::NotFound`] if no key is set.
pub async fn reveal(
    connection: &mut PgConnection,
    owner: i32,
    author: &Author,
) -> Result<SecretString, BackOfficeError> {
    let key = sqlx::query_scalar!(
        r#"select coalesce(value, '') as "key!" from conflines where owner_id = $1 and name = 'API_Secret_Key'
           order by id limit 1"#,
        owner
    );
    let key = key.fetch_optional(&mut *connection).await?.filter(|key| !key.is_empty());
    let key = key.ok_or_else(|| BackOfficeError::NotFound("no secret key is set: use `mortise key set`".to_owned()))?;
    record_event(connection, owner, &json!({ "key": "shown" }), author).await?;
    Ok(key.into())
}

/// Records what was done with an owner's key. The log never contains a key.
async fn record_event(connection: &mut PgConnection, owner: i32, event: &Value, author: &Author) -> sqlx::Result<()> {
    let name = lookup::owner_name(&mut *connection, owner).await?;
    let target = Target::Row { id: owner.into(), name: &name };
    let change = Change { what: What::Key, target, before: None, after: Some(event.to_string()) };
    change.record(connection, author).await
}
