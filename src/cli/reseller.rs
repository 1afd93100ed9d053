//! `mortise reseller`: creates resellers.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use super::database::with_transaction;
use super::{CommandError, Report, author, secret};
use crate::auth::passwords;
use crate::back_office::resellers::{NewReseller, create};
use crate::config::Config;
use crate::input;
use crate::managed_postgres::data_directory::random_hex;

/// Subcommands of `mortise reseller`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a reseller that can create a card group and sell at once; print its password and secret key once
    Create {
        /// The login name: the parameter u of requests
        #[arg(value_parser = input::parse_user_name)]
        name: String,
        /// Read the password from the first line of this file, instead of generating one
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
        /// The permission group, as in `mortise right list` [default: Resellers, created if it does not exist]
        #[arg(long, value_name = "GROUP")]
        rights: Option<String>,
    },
}

/// Runs the command.
pub async fn run(command: &Command, config: &Config) -> Result<Report, CommandError> {
    let Command::Create { name, password_file, rights } = command;
    let password = match password_file {
        Some(path) => read_password(path)?,
        None => generate()?,
    };
    let key = generate()?;
    let hash = passwords::hash_argon2(password.expose_secret());
    let hash = hash.ok_or_else(|| CommandError::failed("cannot hash the password"))?;
    let new = NewReseller { name, password_argon2: &hash, key: &key, permission_group: rights.as_deref() };
    let created = with_transaction(config, async |connection| Ok(create(connection, &new, &author()).await?)).await?;
    let generated = password_file.is_none().then(|| password.expose_secret());
    let password_line = generated.map(|password| format!("Password:        {password}\n")).unwrap_or_default();
    let text = format!(
        "The reseller {name} was created, with id {}, the rights of {}, the tariff {} and the LCR {}.\n\
         {password_line}API secret key:  {}\n\
         They are shown only this once.",
        created.id,
        created.permission_group,
        created.tariff_id,
        created.lcr_id,
        key.expose_secret()
    );
    let json = json!({
        "id": created.id, "username": name, "password": generated, "key": key.expose_secret(),
        "permission_group": created.permission_group, "tariff_id": created.tariff_id, "lcr_id": created.lcr_id,
    });
    Ok(Report::new(text, json))
}

fn generate() -> Result<SecretString, CommandError> {
    let random = random_hex().map_err(|error| CommandError::Failed(format!("cannot get random bytes: {error}")))?;
    Ok(random.into())
}

fn read_password(path: &Path) -> Result<SecretString, CommandError> {
    let text = input::read_file(path)
        .map_err(|error| CommandError::Usage(format!("cannot read the password from {}: {error}", path.display())))?;
    let password = text.lines().next().unwrap_or_default();
    secret::check_password(password)?;
    Ok(password.into())
}
