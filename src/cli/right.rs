//! `mortise right`: manages permission groups, their rights and members.

use clap::{Subcommand, ValueEnum};

use super::database::{with_database, with_transaction};
use super::{CommandError, Report, author, find_user};
use crate::back_office::rights::{self, RightChange};
use crate::config::Config;
use crate::input;

/// Subcommands of `mortise right`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the permission groups with their rights and members
    List,
    /// Set a right of a permission group
    Set {
        /// The permission group
        #[arg(value_parser = input::parse_column_text)]
        group: String,
        /// The right, as in `mortise right list`
        right: String,
        /// The access level
        value: AccessLevel,
        /// Create the group for users of this type, if it does not exist
        #[arg(long, value_name = "TYPE")]
        create: Option<GroupType>,
    },
    /// Move a user into a permission group
    Give {
        /// The permission group
        group: String,
        /// The user's name
        user: String,
    },
}

/// The value of a right.
#[derive(Debug, Clone, Copy, ValueEnum)]
#[expect(missing_docs, reason = "self-explanatory names")]
pub enum AccessLevel {
    None,
    Read,
    Edit,
}

/// The types of users that can have a permission group.
#[derive(Debug, Clone, Copy, ValueEnum)]
#[expect(missing_docs, reason = "MOR's names")]
pub enum GroupType {
    Accountant,
    Reseller,
}

impl GroupType {
    fn name(self) -> &'static str {
        match self {
            Self::Accountant => "accountant",
            Self::Reseller => "reseller",
        }
    }
}

/// Runs the command.
pub async fn run(command: &Command, config: &Config) -> Result<Report, CommandError> {
    match command {
        Command::List => list(config).await,
        Command::Set { group, right, value, create } => set(group, right, *value, *create, config).await,
        Command::Give { group, user } => assign_group(group, user, config).await,
    }
}

async fn list(config: &Config) -> Result<Report, CommandError> {
    let rights = with_database(config, async |pool| Ok(rights::list(pool).await?)).await?;
    Ok(Report::table(["ID", "GROUP", "TYPE", "RIGHT", "VALUE", "MEMBERS"], &rights, |row| {
        [
            row.group_id.to_string(),
            row.group.clone(),
            row.r#type.clone(),
            row.right.clone().unwrap_or_default(),
            rights::describe_value(row.value).to_owned(),
            row.members.join(", "),
        ]
    }))
}

async fn set(
    group: &str,
    right: &str,
    value: AccessLevel,
    create: Option<GroupType>,
    config: &Config,
) -> Result<Report, CommandError> {
    let number = match value {
        AccessLevel::None => 0,
        AccessLevel::Read => 1,
        AccessLevel::Edit => 2,
    };
    let change = RightChange { group, right, value: number, create: create.map(GroupType::name) };
    let right = with_transaction(config, async |connection| Ok(change.apply(connection, &author()).await?)).await?;
    let value = rights::describe_value(Some(number));
    Ok(Report::done(format!("{right} of the permission group {group} is {value} now.")))
}

async fn assign_group(group: &str, user: &str, config: &Config) -> Result<Report, CommandError> {
    with_transaction(config, async |connection| {
        let user = find_user(&mut *connection, user).await?;
        rights::give(connection, Some(group), &user, &author()).await?;
        Ok(Report::done(format!("{} has the rights of {group} now.", user.username)))
    })
    .await
}
