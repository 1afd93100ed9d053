//! `mortise key`: manages the secret keys that sign requests.

use std::time::Duration;

use clap::Subcommand;
use serde_json::json;
use sqlx::PgConnection;

use super::database::with_database;
use super::{CommandError, Report, author, find_settings_owner_id, owner_name, secret};
use crate::config::Config;
use crate::managed_postgres::data_directory::random_hex;
use crate::store::change_log::{Change, Target, What};

/// Subcommands of `mortise key`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Set a given key; type it, or send it on standard input. The old key becomes invalid at once
    Set {
        /// The reseller whose key it is [default: the admin]
        #[arg(long, value_name = "RESELLER")]
        user: Option<String>,
    },
    /// Generate a new key and print it once; the old key stays valid for --keep
    Rotate {
        /// The reseller whose key it is [default: the admin]
        #[arg(long, value_name = "RESELLER")]
        user: Option<String>,
        /// How long the old key stays valid: 7d, 12h; 0s after a leak
        #[arg(long, value_name = "TIME", default_value = "7d", value_parser = humantime::parse_duration)]
        keep: Duration,
    },
    /// End the validity of the previous key, when no client uses it any more
    End {
        /// The reseller whose previous key it is [default: the admin]
        #[arg(long, value_name = "RESELLER")]
        user: Option<String>,
    },
    /// Print the key
    Show {
        /// The reseller whose key it is [default: the admin]
        #[arg(long, value_name = "RESELLER")]
        user: Option<String>,
        /// Confirm that the key may appear on the screen
        #[arg(long, required = true)]
        yes: bool,
    },
}

/// Runs the command.
pub async fn run(command: &Command, config: &Config) -> Result<Report, CommandError> {
    match command {
        Command::Set { user } => {
            let key = secret::read("secret key")?;
            replace_key(user.as_deref(), &key, Duration::ZERO, config).await?;
            Ok(Report::done("The secret key was set."))
        }
        Command::Rotate { user, keep } => {
            let key =
                random_hex().map_err(|error| CommandError::Failed(format!("cannot get random bytes: {error}")))?;
            let until = replace_key(user.as_deref(), &key, *keep, config).await?;
            let previous = until.as_ref().map(|until| format!("\nThe previous key is valid until {until} UTC."));
            let text = format!("New API secret key: {key}{}", previous.unwrap_or_default());
            Ok(Report::new(text, json!({ "key": key, "previous_until": until })))
        }
        Command::End { user } => end_previous_key(user.as_deref(), config).await,
        Command::Show { user, .. } => show_key(user.as_deref(), config).await,
    }
}

/// Replaces the key of an owner. Returns the time (UTC) until which the previous key is valid, if it is.
async fn replace_key(
    user: Option<&str>,
    key: &str,
    keep: Duration,
    config: &Config,
) -> Result<Option<String>, CommandError> {
    let keep_s = i64::try_from(keep.as_secs()).map_err(|_| CommandError::Usage("--keep is too long".to_owned()))?;
    with_database(config, async |pool| {
        let mut transaction = pool.begin().await?;
        let owner = find_settings_owner_id(&mut *transaction, user).await?;
        // Two concurrent changes would both store the same key as the previous one.
        sqlx::query!("lock table conflines in share row exclusive mode").execute(&mut *transaction).await?;
        let until = set_previous_key(&mut transaction, owner, keep_s).await?;
        sqlx::query!(
            "with changed as (
                 update conflines set value = $2 where owner_id = $1 and name = 'API_Secret_Key' returning id)
             insert into conflines (owner_id, name, value) select $1, 'API_Secret_Key', $2
             where not exists (select from changed)",
            owner,
            key
        )
        .execute(&mut *transaction)
        .await?;
        let event = json!({ "key": "replaced", "previous_key_valid_until": until });
        record_event(&mut transaction, owner, &event).await?;
        transaction.commit().await?;
        Ok(until)
    })
    .await
}

/// Stores the current key as the previous key for `keep_s` seconds, and deletes the stored previous key. 0 stores none.
async fn set_previous_key(
    connection: &mut PgConnection,
    owner: i32,
    keep_s: i64,
) -> Result<Option<String>, CommandError> {
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
        sqlx::Error::Database(error) if error.code().as_deref() == Some("22008") => {
            CommandError::Usage("--keep is too long".to_owned())
        }
        error => error.into(),
    })
}

async fn end_previous_key(user: Option<&str>, config: &Config) -> Result<Report, CommandError> {
    with_database(config, async |pool| {
        let mut transaction = pool.begin().await?;
        let owner = find_settings_owner_id(&mut *transaction, user).await?;
        set_previous_key(&mut transaction, owner, 0).await?;
        record_event(&mut transaction, owner, &json!({ "previous_key": "ended" })).await?;
        transaction.commit().await?;
        Ok(Report::done("No previous key is valid."))
    })
    .await
}

async fn show_key(user: Option<&str>, config: &Config) -> Result<Report, CommandError> {
    with_database(config, async |pool| {
        let mut transaction = pool.begin().await?;
        let owner = find_settings_owner_id(&mut *transaction, user).await?;
        let key = sqlx::query_scalar!(
            r#"select coalesce(value, '') as "key!" from conflines where owner_id = $1 and name = 'API_Secret_Key'
               order by id limit 1"#,
            owner
        );
        let key = key.fetch_optional(&mut *transaction).await?.filter(|key| !key.is_empty());
        let key =
            key.ok_or_else(|| CommandError::NotFound("no secret key is set: use `mortise key set`".to_owned()))?;
        record_event(&mut transaction, owner, &json!({ "key": "shown" })).await?;
        transaction.commit().await?;
        Ok(Report::new(key.as_str(), json!({ "key": key })))
    })
    .await
}

/// Records what was done with an owner's key. The log never contains a key.
async fn record_event(connection: &mut PgConnection, owner: i32, event: &serde_json::Value) -> sqlx::Result<()> {
    let name = owner_name(&mut *connection, owner).await?;
    let target = Target::Row { id: owner.into(), name: &name };
    let change = Change { what: What::Key, target, before: None, after: Some(event.to_string()) };
    change.record(connection, &author()).await
}
