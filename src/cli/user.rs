//! `mortise user`: manages users.

use clap::Subcommand;
use serde_json::json;
use sqlx::PgConnection;

use super::database::{with_database, with_transaction};
use super::{CommandError, Report, author, find_user, secret};
use crate::accounts::UserType;
use crate::back_office::users::{self, PasswordHashes, UserFilter, UserRow};
use crate::config::Config;
use crate::input;

/// Subcommands of `mortise user`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Add a user; type the password, or send it on standard input
    Add(NewUser),
    /// List users
    List {
        /// Only users of this type
        #[arg(long, value_name = "TYPE")]
        r#type: Option<UserType>,
    },
    /// Set a password; type it, or send it on standard input
    SetPassword {
        /// The user's name
        name: String,
        /// Also store MOR's SHA-1 hash, for other programs that read it
        #[arg(long)]
        sha1: bool,
    },
    /// Delete MOR's SHA-1 hash of each password that also has an argon2id hash
    ClearSha1,
    /// Block a user
    Block {
        /// The user's name
        name: String,
    },
    /// Unblock a user
    Unblock {
        /// The user's name
        name: String,
    },
}

/// Options of `mortise user add`.
#[derive(Debug, clap::Args)]
pub struct NewUser {
    /// The login name: the parameter u of requests
    #[arg(value_parser = input::parse_user_name)]
    name: String,
    /// The type of the user
    #[arg(long, value_name = "TYPE")]
    r#type: UserType,
    /// The owner of the user [default: the admin]
    #[arg(long, value_name = "USER")]
    owner: Option<String>,
    /// The permission group, as in `mortise right list`; accountants and resellers can do little without one
    #[arg(long, value_name = "GROUP")]
    rights: Option<String>,
    /// Also store MOR's SHA-1 hash of the password, for other programs that read it
    #[arg(long)]
    sha1: bool,
}

/// Runs the command.
pub async fn run(command: &Command, config: &Config) -> Result<Report, CommandError> {
    match command {
        Command::Add(new) => add(new, config).await,
        Command::List { r#type } => list(*r#type, config).await,
        Command::SetPassword { name, sha1 } => set_password(name, *sha1, config).await,
        Command::ClearSha1 => clear_sha1_hashes(config).await,
        Command::Block { name } => set_blocked(name, true, config).await,
        Command::Unblock { name } => set_blocked(name, false, config).await,
    }
}

/// Reads a new password, and hashes it.
fn read_password(with_sha1: bool) -> Result<PasswordHashes, CommandError> {
    let password = secret::read_password()?;
    PasswordHashes::new(&password, with_sha1).ok_or_else(|| CommandError::failed("cannot hash the password"))
}

async fn add(new: &NewUser, config: &Config) -> Result<Report, CommandError> {
    let name = new.name.as_str();
    let hashes = read_password(new.sha1)?;
    let kind = new.r#type;
    let user = users::NewUser {
        name,
        kind,
        owner: new.owner.as_deref(),
        permission_group: new.rights.as_deref(),
        hashes: &hashes,
    };
    let id = with_transaction(config, async |connection| Ok(users::add(connection, &user, &author()).await?)).await?;
    let text = format!("The {} {name} was added, with id {id}.", kind.name());
    Ok(Report::new(text, json!({ "id": id, "username": name })))
}

async fn list(kind: Option<UserType>, config: &Config) -> Result<Report, CommandError> {
    let filter = UserFilter { kind, ..UserFilter::default() };
    let users = with_database(config, async |pool| Ok(users::list(pool, &filter).await?)).await?;
    Ok(Report::table(["ID", "NAME", "TYPE", "OWNER", "RIGHTS", "BLOCKED", "PASSWORD"], &users, |user| {
        [
            user.id.to_string(),
            user.username.clone(),
            user.r#type.clone(),
            user.owner.clone().unwrap_or_default(),
            user.rights.clone().unwrap_or_default(),
            if user.blocked { "yes" } else { "" }.to_owned(),
            user.password.clone(),
        ]
    }))
}

async fn set_password(name: &str, with_sha1: bool, config: &Config) -> Result<Report, CommandError> {
    let hashes = read_password(with_sha1)?;
    with_transaction(config, async |connection| {
        let user = lock_user(&mut *connection, name).await?;
        users::set_password(connection, &user, &hashes, &author()).await?;
        Ok(Report::done(format!("The password of {} was set.", user.username)))
    })
    .await
}

async fn clear_sha1_hashes(config: &Config) -> Result<Report, CommandError> {
    let cleared =
        with_transaction(config, async |connection| Ok(users::clear_sha1_hashes(connection, &author()).await?));
    let (deleted, left) = cleared.await?;
    let text =
        format!("SHA-1 hashes deleted: {deleted}; left: {left}, of users that have not sent their password yet.");
    Ok(Report::new(text, json!({ "deleted": deleted, "left": left })))
}

async fn set_blocked(name: &str, blocked: bool, config: &Config) -> Result<Report, CommandError> {
    with_transaction(config, async |connection| {
        let user = lock_user(&mut *connection, name).await?;
        Ok(Report::done(users::set_blocked(connection, &user, blocked, config.dialect, &author()).await?))
    })
    .await
}

/// Finds a user by name, and locks it until the end of the transaction.
async fn lock_user(connection: &mut PgConnection, name: &str) -> Result<UserRow, CommandError> {
    let user = find_user(&mut *connection, name).await?;
    Ok(users::lock(connection, user.id).await?)
}
