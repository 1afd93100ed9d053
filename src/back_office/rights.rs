//! Permission groups: their rights and members.

use serde::Serialize;
use serde_json::json;
use sqlx::{PgConnection, PgExecutor};

use super::BackOfficeError;
use super::users::lookup::{self, UserRow};
use crate::store::change_log::{Author, Change, Target, What};

/// A right of a group. If a right has several rows, the one with the lowest id is valid.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "self-explanatory names")]
pub struct RightRow {
    pub group_id: i32,
    pub group: String,
    pub r#type: String,
    pub right: Option<String>,
    pub value: Option<i16>,
    pub members: Vec<String>,
}

/// Returns all groups with all rights that their members can have.
///
/// # Errors
///
/// Database errors.
pub async fn list(executor: impl PgExecutor<'_>) -> sqlx::Result<Vec<RightRow>> {
    sqlx::query_as!(
        RightRow,
        r#"select g.id as group_id, g.name as "group", g.group_type as "type", r.name as "right?",
               (select value from acc_group_rights v where v.acc_group_id = g.id and v.acc_right_id = r.id
                order by v.id limit 1) as value,
               array(select username from users where acc_group_id = g.id order by id) as "members!"
           from acc_groups g left join acc_rights r on r.right_type = g.group_type
           order by g.id, r.id"#
    )
    .fetch_all(executor)
    .await
}

/// Returns the value of a right in words.
pub fn describe_value(value: Option<i16>) -> &'static str {
    match value {
        Some(1) => "read",
        Some(2..) => "edit",
        _ => "none",
    }
}

/// A right to set.
#[derive(Debug)]
pub struct RightChange<'a> {
    /// The permission group.
    pub group: &'a str,
    /// The right; letter case is ignored.
    pub right: &'a str,
    /// 0 none, 1 read, 2 edit.
    pub value: i16,
    /// The type of users for which the group is created, if it does not exist. `None`: it is not created.
    pub create: Option<&'a str>,
}

impl RightChange<'_> {
    /// Sets the right in the caller's transaction. Returns the name of the right.
    ///
    /// # Errors
    ///
    /// [`BackOfficeError::NotFound`] without the group or the right, [`BackOfficeError::Refused`] if their types
    /// differ.
    pub async fn apply(&self, connection: &mut PgConnection, author: &Author) -> Result<String, BackOfficeError> {
        let Self { group, value, create, .. } = *self;
        sqlx::query!("lock table acc_groups, acc_group_rights in share row exclusive mode")
            .execute(&mut *connection)
            .await?;
        let (right_id, right, right_type) = find_right(&mut *connection, self.right).await?;
        let group_id = match (find_group(&mut *connection, group).await?, create) {
            (Some((_, kind)), _) if kind != right_type || create.is_some_and(|create| create != kind) => {
                return Err(BackOfficeError::Refused(format!(
                    "{group} is a permission group of the type {kind}, {right} is a right of the type {right_type}"
                )));
            }
            (None, Some(kind)) if kind != right_type => {
                return Err(BackOfficeError::Refused(format!("{right} is a right of the type {right_type}")));
            }
            (Some((id, _)), _) => id,
            (None, Some(kind)) => create_group(&mut *connection, group, kind, author).await?,
            (None, None) => return Err(group_not_found(group)),
        };
        let before = sqlx::query_scalar!(
            "select value from acc_group_rights where acc_group_id = $1 and acc_right_id = $2 order by id limit 1",
            group_id,
            right_id
        );
        let before = before.fetch_optional(&mut *connection).await?;
        sqlx::query!(
            "with changed as (
                 update acc_group_rights set value = $3 where acc_group_id = $1 and acc_right_id = $2 returning id)
             insert into acc_group_rights (acc_group_id, acc_right_id, value)
             select $1, $2, $3 where not exists (select from changed)",
            group_id,
            right_id,
            value
        )
        .execute(&mut *connection)
        .await?;
        let value_json = |number: i16| json!({ right.as_str(): number }).to_string();
        let change = Change {
            what: What::Right,
            target: Target::Row { id: group_id.into(), name: group },
            before: before.map(value_json),
            after: Some(value_json(value)),
        };
        change.record(connection, author).await?;
        Ok(right)
    }
}

/// Moves a user into a permission group, which must be for users of its type. `None`: into no group.
///
/// # Errors
///
/// [`BackOfficeError::NotFound`] without the group, [`BackOfficeError::Refused`] if it is for other users.
pub async fn give(
    connection: &mut PgConnection,
    group: Option<&str>,
    user: &UserRow,
    author: &Author,
) -> Result<(), BackOfficeError> {
    let group_id = match group {
        Some(group) => find_group_id(&mut *connection, group, &user.usertype).await?,
        None => 0,
    };
    lookup::lock(&mut *connection, user.id).await?;
    let before = sqlx::query_scalar!(
        "select (select name from acc_groups where id = acc_group_id) from users where id = $1",
        user.id
    );
    let before = before.fetch_one(&mut *connection).await?;
    sqlx::query!("update users set acc_group_id = $2 where id = $1", user.id, group_id)
        .execute(&mut *connection)
        .await?;
    let group_json = |group: Option<&str>| Some(json!({ "permission_group": group }).to_string());
    let change = Change {
        what: What::User,
        target: Target::Row { id: user.id.into(), name: &user.username },
        before: group_json(before.as_deref()),
        after: group_json(group),
    };
    change.record(connection, author).await?;
    Ok(())
}

/// Returns the id of the permission group `name`, which must be for users of the type `usertype`.
///
/// # Errors
///
/// As [`give`].
pub async fn find_group_id(connection: &mut PgConnection, name: &str, usertype: &str) -> Result<i32, BackOfficeError> {
    let (id, kind) = find_group(connection, name).await?.ok_or_else(|| group_not_found(name))?;
    if kind != usertype {
        let message = format!("the permission group {name} is for users of the type {kind}, not {usertype}");
        return Err(BackOfficeError::Refused(message));
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

fn group_not_found(name: &str) -> BackOfficeError {
    BackOfficeError::NotFound(format!(
        "there is no permission group {name:?}: `mortise right list` shows all, `mortise right set --create` adds one"
    ))
}

async fn create_group(connection: &mut PgConnection, name: &str, kind: &str, author: &Author) -> sqlx::Result<i32> {
    let id = sqlx::query_scalar!("insert into acc_groups (name, group_type) values ($1, $2) returning id", name, kind)
        .fetch_one(&mut *connection)
        .await?;
    let change = Change {
        what: What::Right,
        target: Target::Row { id: id.into(), name },
        before: None,
        after: Some(json!({ "permission_group": name, "type": kind }).to_string()),
    };
    change.record(connection, author).await?;
    Ok(id)
}

/// Returns the id, name and type of the right with this name; letter case is ignored.
async fn find_right(connection: &mut PgConnection, name: &str) -> Result<(i32, String, String), BackOfficeError> {
    let rights =
        sqlx::query!(r#"select id, name, coalesce(right_type, '') as "right_type!" from acc_rights order by name"#)
            .fetch_all(connection)
            .await?;
    match rights.iter().find(|right| right.name.eq_ignore_ascii_case(name)) {
        Some(right) => Ok((right.id, right.name.clone(), right.right_type.clone())),
        None => {
            let names: Vec<&str> = rights.iter().map(|right| right.name.as_str()).collect();
            Err(BackOfficeError::NotFound(format!("there is no right {name:?}; available: {}", names.join(", "))))
        }
    }
}
