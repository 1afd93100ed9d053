//! `mortise key`: manages the secret keys that sign requests.

use std::time::Duration;

use clap::Subcommand;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use sqlx::PgConnection;

use super::database::with_transaction;
use super::{ADMIN_ID, CommandError, Report, author, find_settings_owner_id, secret};
use crate::back_office::keys::{self, ReplaceError};
use crate::back_office::users;
use crate::config::Config;

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
            let key = secret::read("secret key")?.into();
            replace(user.as_deref(), &key, Duration::ZERO, config).await?;
            Ok(Report::done("The secret key was set."))
        }
        Command::Rotate { user, keep } => {
            let key = keys::generate()?;
            let until = replace(user.as_deref(), &key, *keep, config).await?;
            let previous = until.as_ref().map(|until| format!("\nThe previous key is valid until {until} UTC."));
            let key = key.expose_secret();
            let text = format!("New API secret key: {key}{}", previous.unwrap_or_default());
            Ok(Report::new(text, json!({ "key": key, "previous_until": until })))
        }
        Command::End { user } => {
            with_transaction(config, async |connection| {
                let owner = find_key_owner(&mut *connection, user.as_deref()).await?;
                Ok(keys::end_previous(connection, owner, &author()).await?)
            })
            .await?;
            Ok(Report::done("No previous key is valid."))
        }
        Command::Show { user, .. } => {
            let key = with_transaction(config, async |connection| {
                let owner = find_settings_owner_id(&mut *connection, user.as_deref()).await?;
                Ok(keys::reveal(connection, owner, &author()).await?)
            })
            .await?;
            let key = key.expose_secret();
            Ok(Report::new(key, json!({ "key": key })))
        }
    }
}

/// Replaces the key of an owner. Returns the time (UTC) until which the previous key is valid, if it is.
async fn replace(
    user: Option<&str>,
    key: &SecretString,
    keep: Duration,
    config: &Config,
) -> Result<Option<String>, CommandError> {
    with_transaction(config, async |connection| {
        let owner = find_key_owner(&mut *connection, user).await?;
        keys::replace(connection, owner, key, keep, &author()).await.map_err(|error| match error {
            ReplaceError::TooLong => CommandError::Usage("--keep is too long".to_owned()),
            error @ ReplaceError::PreviousValid(_) => {
                let option = user.map(|name| format!(" --user {name:?}")).unwrap_or_default();
                CommandError::Failed(format!(
                    "{error}. If no client uses it, end it with `mortise key end{option}`; after a leak use --keep 0s. \
                     `mortise key show --yes{option}` prints the present key"
                ))
            }
            ReplaceError::Database(error) => error.into(),
        })
    })
    .await
}

/// Returns the id of the user whose key is changed: by default the admin.
async fn find_key_owner(connection: &mut PgConnection, user: Option<&str>) -> Result<i32, CommandError> {
    match user {
        Some(name) => Ok(users::find(connection, name).await?.key_owner()?),
        None => Ok(ADMIN_ID),
    }
}
