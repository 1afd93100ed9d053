//! Finds users, and the owner of the settings that apply to them.

use sqlx::{PgConnection, PgExecutor};

use crate::back_office::BackOfficeError;

/// The admin, who owns what belongs to no reseller.
pub const ADMIN_ID: i32 = 0;

/// A user that an operator names.
#[derive(Debug)]
#[expect(missing_docs, reason = "MOR's column names")]
pub struct UserRow {
    pub id: i32,
    pub username: String,
    pub usertype: String,
    pub owner_id: i32,
}

impl UserRow {
    /// Returns the owner of the settings and the key that this user can have: a reseller has its own, an admin and an
    /// accountant use the admin's.
    ///
    /// # Errors
    ///
    /// [`BackOfficeError::Refused`] for other users: they use those of their owner.
    pub fn settings_owner(&self) -> Result<i32, BackOfficeError> {
        match self.usertype.as_str() {
            "reseller" => Ok(self.id),
            "admin" | "accountant" => Ok(ADMIN_ID),
            _ => Err(BackOfficeError::Refused(format!(
                "the user {} has no settings: the settings of the owner (user id {}) apply",
                self.username, self.owner_id
            ))),
        }
    }

    /// Returns the id of a user who has a key of its own: the admin or a reseller.
    ///
    /// # Errors
    ///
    /// [`BackOfficeError::Refused`] for other users: a change of the key would concern all users of its owner.
    pub fn key_owner(&self) -> Result<i32, BackOfficeError> {
        match self.settings_owner()? {
            owner if owner == self.id => Ok(owner),
            owner => Err(BackOfficeError::Refused(format!(
                "the user {} has no key of its own: the key of the user with the id {owner} signs its requests",
                self.username
            ))),
        }
    }
}

/// Finds a user by name as the server does: ignores letter case and trailing spaces, takes the lowest id.
///
/// # Errors
///
/// [`BackOfficeError::NotFound`].
pub async fn find(executor: impl PgExecutor<'_>, name: &str) -> Result<UserRow, BackOfficeError> {
    let user = sqlx::query_as!(
        UserRow,
        r#"select id, username, usertype, coalesce(owner_id, 0) as "owner_id!" from users
           where fold_case(rtrim(username)) = fold_case(rtrim($1)) order by id limit 1"#,
        name
    );
    let user = user.fetch_optional(executor).await?;
    user.ok_or_else(|| BackOfficeError::NotFound(format!("there is no user {name:?}")))
}

/// Reads a user, and locks it until the end of the transaction.
///
/// # Errors
///
/// [`BackOfficeError::NotFound`].
pub async fn lock(connection: &mut PgConnection, id: i32) -> Result<UserRow, BackOfficeError> {
    let user = sqlx::query_as!(
        UserRow,
        r#"select id, username, usertype, coalesce(owner_id, 0) as "owner_id!" from users where id = $1 for no key update"#,
        id
    );
    let user = user.fetch_optional(connection).await?;
    user.ok_or_else(|| BackOfficeError::NotFound(format!("there is no user with the id {id}")))
}

/// Returns the user name of an owner of settings.
///
/// # Errors
///
/// Database errors.
pub async fn owner_name(executor: impl PgExecutor<'_>, owner: i32) -> sqlx::Result<String> {
    let name = sqlx::query_scalar!("select username from users where id = $1", owner).fetch_optional(executor).await?;
    Ok(name.unwrap_or_else(|| format!("user {owner}")))
}
