//! The operator's commands: a file for each family. They do with SQL what MOR's own pages did, and leave an audit row for
//! whatever they change.

pub mod audit;
pub mod cards;
pub mod config;
pub mod currency;
mod database;
pub mod doctor;
pub mod explain;
pub mod group;
pub mod healthcheck;
pub mod key;
pub mod migrate;
pub mod report;
pub mod right;
mod secret;
pub mod setting;
pub mod sign;
pub mod user;

use std::io;
use std::process::ExitCode;

use sqlx::{PgConnection, PgExecutor};

use crate::config::ConfigError;
use crate::db::DatabaseError;
use crate::dialect::Dialect;
use crate::error::ApiError;
use crate::managed_postgres::installation::ManagedPostgresError;

pub use self::report::Report;

/// Whom the audit rows of commands name: the admin, since there is no other for whoever may run them.
const ADMIN_ID: i32 = 0;

/// Why a command wasn't carried out.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum CommandError {
    /// In words of the command's own.
    #[error("{0}")]
    Failed(String),
    #[error("stopped before it was done")]
    Interrupted,
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The command line makes no sense.
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// What is named isn't there.
    #[error("{0}")]
    NotFound(String),
    #[error("there is no database in {}: `mortise serve` or `mortise migrate` makes one, --data-dir names another", .0.display())]
    NoDatabase(std::path::PathBuf),
    #[error(transparent)]
    Managed(#[from] ManagedPostgresError),
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error("{0}")]
    DatabaseUnavailable(String),
    #[error("the database says: {0}")]
    Sql(#[from] sqlx::Error),
}

impl CommandError {
    /// As `mortise --help` lists them.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Failed(_) | Self::Interrupted | Self::Io(_) => 1,
            Self::Usage(_) | Self::Config(_) => 2,
            Self::NotFound(_) => 3,
            // A value that it won't have isn't a database that can't be had.
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

    fn failed(words: impl Into<String>) -> Self {
        Self::Failed(words.into())
    }
}

/// What operations and commands share refuses in words for clients.
impl From<ApiError> for CommandError {
    fn from(fault: ApiError) -> Self {
        let words = fault.message(Dialect::Documented);
        match fault {
            ApiError::Unavailable => Self::DatabaseUnavailable(words),
            ApiError::CommitUnknown => Self::DatabaseUnavailable(format!("{words}: look at `mortise audit`")),
            _ => Self::Failed(words),
        }
    }
}

/// A user whom a command is about.
struct UserRow {
    id: i32,
    username: String,
    usertype: String,
    owner_id: i32,
}

/// The user whom the server takes for the one of that name.
async fn find_user(database: impl PgExecutor<'_>, name: &str) -> Result<UserRow, CommandError> {
    let user = sqlx::query_as!(
        UserRow,
        r#"select id, username, usertype, coalesce(owner_id, 0) as "owner_id!" from users
           where lower(rtrim(username)) = lower(rtrim($1)) order by id limit 1"#,
        name
    );
    user.fetch_optional(database).await?.ok_or_else(|| CommandError::NotFound(format!("there is no user {name:?}")))
}

/// Whose settings a command is about: those of the reseller named, or the admin's.
async fn find_settings_owner_id(database: impl PgExecutor<'_>, name: Option<&str>) -> Result<i32, CommandError> {
    let Some(name) = name else { return Ok(ADMIN_ID) };
    let user = find_user(database, name).await?;
    match user.usertype.as_str() {
        "reseller" => Ok(user.id),
        "admin" | "accountant" => Ok(ADMIN_ID),
        _ => Err(CommandError::Failed(format!(
            "{} has no settings: those of the owner (user id {}) count",
            user.username, user.owner_id
        ))),
    }
}

/// What a command changed, for the table `actions`.
#[derive(Default)]
struct AuditEntry<'a> {
    action: &'a str,
    target_type: &'a str,
    target_id: i64,
    data: &'a str,
    data2: &'a str,
    data3: &'a str,
}

impl AuditEntry<'_> {
    /// Writes the row, within the change's own transaction.
    async fn record(&self, connection: &mut PgConnection) -> sqlx::Result<()> {
        sqlx::query!(
            "insert into actions (user_id, action, target_type, target_id, data, data2, data3, data4)
             values ($1, $2, $3, $4, $5, $6, $7, $8)",
            ADMIN_ID,
            self.action,
            self.target_type,
            self.target_id,
            self.data,
            self.data2,
            self.data3,
            format!("mortise command of {}", operator_name())
        )
        .execute(connection)
        .await?;
        Ok(())
    }
}

/// Who runs the command, as far as the system tells.
fn operator_name() -> String {
    let named = ["SUDO_USER", "USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok());
    let name = named.filter(|name| !name.is_empty());
    let name = name.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()));
    name.chars().filter(|char| !char.is_control()).take(64).collect()
}
