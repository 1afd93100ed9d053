//! The operator's commands, one file per command. They do in SQL what MOR's admin pages do, and write a row of the
//! change log for each change.

pub mod audit;
pub mod backup;
pub mod card;
pub mod cards;
pub mod config;
mod confirm;
pub mod console;
pub mod currency;
mod database;
pub mod doctor;
pub mod explain;
pub mod group;
pub mod healthcheck;
pub mod import;
pub mod key;
pub mod mail;
pub mod migrate;
mod output_file;
pub mod reconcile;
pub mod report;
pub mod reports;
pub mod reseller;
pub mod restore;
pub mod right;
mod running_server;
mod secret;
pub mod setting;
pub mod sign;
pub mod tariff;
pub mod user;

use std::io;
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};
use sqlx::PgExecutor;

use crate::back_office::BackOfficeError;
use crate::back_office::users::{self, ADMIN_ID, UserRow};
use crate::config::ConfigError;
use crate::db::DatabaseError;
use crate::dialect::Dialect;
use crate::error::ApiError;
use crate::managed_postgres::error::ManagedPostgresError;
use crate::store::change_log::Author;

pub use self::report::Report;
pub use self::running_server::with_running_address;

/// The error of a failed command.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "described by the error messages")]
pub enum CommandError {
    /// Any failure without a variant of its own.
    #[error("{0}")]
    Failed(String),
    #[error("interrupted")]
    Interrupted,
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The command line is invalid.
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The named user, card group, setting… does not exist.
    #[error("{0}")]
    NotFound(String),
    #[error("no database in {}: create one with `mortise serve` or `mortise migrate`, or set --data-dir", .0.display())]
    NoDatabase(std::path::PathBuf),
    #[error(transparent)]
    Managed(#[from] ManagedPostgresError),
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error("{0}")]
    DatabaseUnavailable(String),
    #[error("database error: {0}")]
    Sql(sqlx::Error),
}

impl CommandError {
    /// Returns the exit code, as listed in `mortise --help`.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Failed(_) | Self::Interrupted | Self::Io(_) => 1,
            Self::Usage(_)
            | Self::Config(_)
            | Self::Database(DatabaseError::InvalidUrl | DatabaseError::InvalidVariable(_)) => 2,
            Self::NotFound(_) => 3,
            // Data exceptions (22…) and constraint violations (23…): the value is wrong, the database is reachable.
            Self::Sql(sqlx::Error::Database(error))
                if error.code().is_some_and(|code| code.starts_with("22") || code.starts_with("23")) =>
            {
                1
            }
            Self::DatabaseUnavailable(_)
            | Self::NoDatabase(_)
            | Self::Managed(_)
            | Self::Database(_)
            | Self::Sql(_) => 4,
        })
    }

    fn failed(message: impl Into<String>) -> Self {
        Self::Failed(message.into())
    }
}

/// Codes of errors that end a transaction because of another session: a lock timeout, a deadlock, a conflict.
const CONFLICTS: [&str; 3] = ["55P03", "40P01", "40001"];

impl From<sqlx::Error> for CommandError {
    fn from(error: sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(|error| error.code());
        match code.is_some_and(|code| CONFLICTS.contains(&&*code)) {
            true => Self::Failed(format!(
                "another session changes the same data: this change was rolled back, run the command again ({error})"
            )),
            false => Self::Sql(error),
        }
    }
}

/// Code that operations and commands share returns errors with messages for clients.
impl From<ApiError> for CommandError {
    fn from(error: ApiError) -> Self {
        let message = error.message(Dialect::Documented);
        match error {
            ApiError::Unavailable => Self::DatabaseUnavailable(message),
            ApiError::CommitUnknown => Self::DatabaseUnavailable(format!("{message}: check `mortise audit`")),
            _ => Self::Failed(message),
        }
    }
}

impl From<BackOfficeError> for CommandError {
    fn from(error: BackOfficeError) -> Self {
        match error {
            BackOfficeError::NotFound(message) => Self::NotFound(message),
            BackOfficeError::Refused(message) => Self::Failed(message),
            BackOfficeError::Database(error) => error.into(),
        }
    }
}

/// Finds a user by name as the server does.
async fn find_user(executor: impl PgExecutor<'_>, name: &str) -> Result<UserRow, CommandError> {
    Ok(users::find(executor, name).await?)
}

/// Returns the owner of the settings that a command reads or changes: the reseller `name`, or the admin.
async fn find_settings_owner_id(executor: impl PgExecutor<'_>, name: Option<&str>) -> Result<i32, CommandError> {
    match name {
        Some(name) => Ok(users::find(executor, name).await?.settings_owner()?),
        None => Ok(ADMIN_ID),
    }
}

/// Returns the author of a command's changes, for the change log.
fn author() -> Author {
    Author::Command { operator: operator_name() }
}

/// Returns the name of the operating system's user that runs the command, else the uid.
fn operator_name() -> String {
    let name = ["SUDO_USER", "USER", "LOGNAME"].into_iter().find_map(|variable| std::env::var(variable).ok());
    let name = name.filter(|name| !name.is_empty());
    let name = name.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()));
    name.chars().filter(|char| !char.is_control()).take(64).collect()
}

/// Creates a progress bar on standard error, visible only if that is a terminal.
fn progress_bar(length: u64, label: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(length);
    // An invalid template leaves the default style.
    if let Ok(style) = ProgressStyle::with_template("{prefix} {wide_bar} {human_pos}/{human_len}, {eta} left") {
        bar.set_style(style);
    }
    bar.with_prefix(label)
}
