//! `mortise right`: manages permission groups, their rights and members.

use clap::{Subcommand, ValueEnum};
use serde::Serialize;
use serde_json::json;
use sqlx::PgConnection;

use super::database::with_database;
use super::{CommandError, Report, author, find_user};
use crate::config::Config;
use crate::input;
use crate::store::change_log::{Change, Target, What};

/// Subcommands of `mortise right`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the permission groups with their rights and members
    List,
    /// Set a right of a permission group
    Set {
        /// The permission group
        #[arg(value_parser = input::parse_name)]
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

/// A right of a group. If a right has several rows, the one with the lowest id is valid.
#[derive(Debug, Serialize)]
struct RightRow {
    group_id: i32,
    group: String,
    r#type: String,
    right: Option<String>,
    value: Option<i16>,
    members: Vec<String>,
}

async fn list(config: &Config) -> Result<Report, CommandError> {
    let rights = with_database(config, async |pool| {
        let rights = sqlx::query_as!(
            RightRow,
            r#"select g.id as group_id, g.name as "group", g.group_type as "type", r.name as "right?",
                   (select value from acc_group_rights v where v.acc_group_id = g.id and v.acc_right_id = r.id
                    order by v.id limit 1) as value,
                   array(select username from users where acc_group_id = g.id order by id) as "members!"
               from acc_groups g left join acc_rights r on r.right_type = g.group_type
               order by g.id, r.id"#
        );
        Ok(rights.fetch_all(pool).await?)
    })
    .await?;
    Ok(Report::table(["ID", "GROUP", "TYPE", "RIGHT", "VALUE", "MEMBERS"], &rights, |row| {
        [
            row.group_id.to_string(),
            row.group.clone(),
            row.r#type.clone(),
            row.right.clone().unwrap_or_default(),
            match row.value {
                Some(1) => "read",
                Some(2..) => "edit",
                _ => "none",
            }
            .to_owned(),
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
    with_database(config, async |pool| {
        let mut transaction = pool.begin().await?;
        sqlx::query!("lock table acc_groups, acc_group_rights in share row exclusive mode")
            .execute(&mut *transaction)
            .await?;
        let (right_id, right, right_type) = find_right(&mut transaction, right).await?;
        let group_id = match (find_group(&mut transaction, group).await?, create) {
            (Some((_, kind)), _) if kind != right_type || create.is_some_and(|create| create.name() != kind) => {
                return Err(CommandError::Failed(format!(
                    "{group} is a permission group of the type {kind}, {right} is a right of the type {right_type}"
                )));
            }
            (None, Some(kind)) if kind.name() != right_type => {
                return Err(CommandError::Failed(format!("{right} is a right of the type {right_type}")));
            }
            (Some((id, _)), _) => id,
            (None, Some(kind)) => create_group(&mut transaction, group, kind).await?,
            (None, None) => return Err(group_not_found(group)),
        };
        let number = match value {
            AccessLevel::None => 0_i16,
            AccessLevel::Read => 1,
            AccessLevel::Edit => 2,
        };
        let before = sqlx::query_scalar!(
            "select value from acc_group_rights where acc_group_id = $1 and acc_right_id = $2 order by id limit 1",
            group_id,
            right_id
        );
        let before = before.fetch_optional(&mut *transaction).await?;
        sqlx::query!(
            "with changed as (
                 update acc_group_rights set value = $3 where acc_group_id = $1 and acc_right_id = $2 returning id)
             insert into acc_group_rights (acc_group_id, acc_right_id, value)
             select $1, $2, $3 where not exists (select from changed)",
            group_id,
            right_id,
            number
        )
        .execute(&mut *transaction)
        .await?;
        let value_json = |number: i16| json!({ right.as_str(): number }).to_string();
        let change = Change {
            what: What::Right,
            target: Target::Row { id: group_id.into(), name: group },
            before: before.map(value_json),
            after: Some(value_json(number)),
        };
        change.record(&mut transaction, &author()).await?;
        transaction.commit().await?;
        let value = format!("{value:?}").to_lowercase();
        Ok(Report::done(format!("{right} of the permission group {group} is {value} now.")))
    })
    .await
}

async fn assign_group(group: &str, user: &str, config: &Config) -> Result<Report, CommandError> {
    with_database(config, async |pool| {
        let mut transaction = pool.begin().await?;
        let user = find_user(&mut *transaction, user).await?;
        let group_id = find_permission_group_id(&mut transaction, group, &user.usertype).await?;
        let before = sqlx::query_scalar!(
            "select (select name from acc_groups where id = acc_group_id) from users where id = $1 for no key update",
            user.id
        );
        let before = before.fetch_one(&mut *transaction).await?;
        sqlx::query!("update users set acc_group_id = $2 where id = $1", user.id, group_id)
            .execute(&mut *transaction)
            .await?;
        let group_json = |group: Option<&str>| Some(json!({ "permission_group": group }).to_string());
        let change = Change {
            what: What::User,
            target: Target::Row { id: user.id.into(), name: &user.username },
            before: group_json(before.as_deref()),
            after: group_json(Some(group)),
        };
        change.record(&mut transaction, &author()).await?;
        transaction.commit().await?;
        Ok(Report::done(format!("{} has the rights of {group} now.", user.username)))
    })
    .await
}

/// Returns the id of the permission group `name`, which must be for users of the type `usertype`.
pub async fn find_permission_group_id(
    connection: &mut PgConnection,
    name: &str,
    usertype: &str,
) -> Result<i32, CommandError> {
    let (id, kind) = find_group(connection, name).await?.ok_or_else(|| group_not_found(name))?;
    if kind != usertype {
        let message = format!("the permission group {name} is for users of the type {kind}, not {usertype}");
        return Err(CommandError::Failed(message));
    }
    Ok(id)
}

async fn find_group(connection: &mut PgConnection, name: &str) -> sqlx::Result<Option<(i32, String)>> {
    let group = sqlx::query!(
        "select id, group_type from acc_groups where fold_case(name) = fold_case($1) order by id limit 1",
        name
    );
    Ok(group.fetch_optional(connection).await?.map(|row| (row.id, row.group_type)))
}

fn group_not_found(name: &str) -> CommandError {
    CommandError::NotFound(format!(
        "there is no permission group {name:?}: `mortise right list` shows all, `mortise right set --create` adds one"
    ))
}

async fn create_group(connection: &mut PgConnection, name: &str, kind: GroupType) -> sqlx::Result<i32> {
    let insert = sqlx::query_scalar!(
        "insert into acc_groups (name, group_type) values ($1, $2) returning id",
        name,
        kind.name()
    );
    let id = insert.fetch_one(&mut *connection).await?;
    let change = Change {
        what: What::Right,
        target: Target::Row { id: id.into(), name },
        before: None,
        after: Some(json!({ "permission_group": name, "type": kind.name() }).to_string()),
    };
    change.record(connection, &author()).await?;
    Ok(id)
}

/// Returns the id, name and type of the right with this name; letter case is ignored.
async fn find_right(connection: &mut PgConnection, name: &str) -> Result<(i32, String, String), CommandError> {
    let rights =
        sqlx::query!(r#"select id, name, coalesce(right_type, '') as "right_type!" from acc_rights order by name"#)
            .fetch_all(connection)
            .await?;
    match rights.iter().find(|right| right.name.eq_ignore_ascii_case(name)) {
        Some(right) => Ok((right.id, right.name.clone(), right.right_type.clone())),
        None => {
            let names: Vec<&str> = rights.iter().map(|right| right.name.as_str()).collect();
            Err(CommandError::NotFound(format!("there is no right {name:?}; available: {}", names.join(", "))))
        }
    }
}
