//! API users: creation, passwords, blocking. What commands and the console show of them.

mod lists;
pub mod lookup;

use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use sqlx::PgConnection;

pub use self::lists::{ListedUser, UserDetails, UserFilter, list, load_details};
pub use self::lookup::{ADMIN_ID, UserRow, find, lock, owner_name};
use super::{BackOfficeError, rights};
use crate::accounts::UserType;
use crate::auth::passwords;
use crate::dialect::Dialect;
use crate::store::change_log::{Author, Change, RowChange, Target, What};

/// The stored hashes of a password. No password matches an empty SHA-1 hash.
#[derive(Debug)]
pub struct PasswordHashes {
    sha1: SecretString,
    argon2: SecretString,
}

impl PasswordHashes {
    /// Hashes a password. `with_sha1`: also as MOR stores it. Slow by design: it blocks the thread. `None`: it failed.
    pub fn new(password: &str, with_sha1: bool) -> Option<Self> {
        let sha1 = if with_sha1 { passwords::hash_sha1(password) } else { String::new() };
        Some(Self { sha1: sha1.into(), argon2: passwords::hash_argon2(password)?.into() })
    }

    /// The hashes of a password whose argon2id hash is known, without that of MOR.
    pub fn of_argon2(hash: String) -> Self {
        Self { sha1: String::new().into(), argon2: hash.into() }
    }
}

/// A user to add.
#[derive(Debug)]
#[expect(missing_docs, reason = "self-explanatory names")]
pub struct NewUser<'a> {
    /// The login name: the parameter u of requests.
    pub name: &'a str,
    pub kind: UserType,
    /// `None`: the admin.
    pub owner: Option<&'a str>,
    pub permission_group: Option<&'a str>,
    pub hashes: &'a PasswordHashes,
}

/// Adds a user in the caller's transaction, and returns its id.
///
/// # Errors
///
/// [`BackOfficeError::Refused`] if the name is taken or the permission group is for another type of users,
/// [`BackOfficeError::NotFound`] without the owner or the group.
pub async fn add(connection: &mut PgConnection, new: &NewUser<'_>, author: &Author) -> Result<i32, BackOfficeError> {
    lock_name(&mut *connection, new.name).await?;
    let owner = match new.owner {
        Some(owner) => find(&mut *connection, owner).await?.id,
        None => ADMIN_ID,
    };
    let group = match new.permission_group {
        Some(group) => rights::find_group_id(&mut *connection, group, new.kind.name()).await?,
        None => 0,
    };
    let id = insert(&mut *connection, new, owner, group).await?;
    RowChange::created(What::User, id).record(connection, author).await?;
    Ok(id)
}

/// Refuses a name that another user has. The lock prevents a concurrent insert of a name that compares equal: MOR
/// ignores letter case and trailing spaces.
pub(super) async fn lock_name(connection: &mut PgConnection, name: &str) -> Result<(), BackOfficeError> {
    sqlx::query!("lock table users in share row exclusive mode").execute(&mut *connection).await?;
    match find(connection, name).await {
        Err(BackOfficeError::NotFound(_)) => Ok(()),
        Ok(existing) => Err(BackOfficeError::Refused(format!(
            "the user {:?} already exists (id {})",
            existing.username, existing.id
        ))),
        Err(error) => Err(error),
    }
}

/// Inserts a user and returns its id. Taxes, tariff, LCR and currency are copied from the owner, as in MOR.
async fn insert(
    connection: &mut PgConnection,
    new: &NewUser<'_>,
    owner: i32,
    group: i32,
) -> Result<i32, BackOfficeError> {
    let id = sqlx::query_scalar!(
        "insert into users (username, password, password_argon2, usertype, owner_id, acc_group_id, tax_id, tariff_id, lcr_id,
             currency_id)
         select $1, $2, $3, $4, owner.id, $6,
             coalesce((select copy_taxes(t) from taxes t where t.id = owner.tax_id), copy_taxes(default_taxes())),
             owner.tariff_id, owner.lcr_id, owner.currency_id
         from users owner where owner.id = $5
         returning id",
        new.name,
        new.hashes.sha1.expose_secret(),
        new.hashes.argon2.expose_secret(),
        new.kind.name(),
        owner,
        group
    );
    id.fetch_optional(connection).await?.ok_or_else(|| {
        BackOfficeError::refused("there is no admin (id 0): `mortise serve` creates it at the first start")
    })
}

/// Stores another password of a user, which the caller has locked.
///
/// # Errors
///
/// Database errors.
pub async fn set_password(
    connection: &mut PgConnection,
    user: &UserRow,
    hashes: &PasswordHashes,
    author: &Author,
) -> sqlx::Result<()> {
    let change = RowChange::begin(&mut *connection, What::User, user.id).await?;
    sqlx::query!(
        "update users set password = $2, password_argon2 = $3 where id = $1",
        user.id,
        hashes.sha1.expose_secret(),
        hashes.argon2.expose_secret()
    )
    .execute(&mut *connection)
    .await?;
    change.record(connection, author).await
}

/// Deletes MOR's hash of each password that also has an argon2id hash. Returns how many were deleted, and how many are
/// left.
///
/// # Errors
///
/// Database errors.
pub async fn clear_sha1_hashes(connection: &mut PgConnection, author: &Author) -> sqlx::Result<(u64, i64)> {
    let deleted = sqlx::query!("update users set password = '' where password <> '' and password_argon2 is not null")
        .execute(&mut *connection)
        .await?
        .rows_affected();
    let left = sqlx::query_scalar!(r#"select count(*) as "count!" from users where password <> ''"#)
        .fetch_one(&mut *connection)
        .await?;
    let after = json!({ "sha1_hashes_deleted": deleted }).to_string();
    let change = Change { what: What::User, target: Target::Named("all users"), before: None, after: Some(after) };
    change.record(connection, author).await?;
    Ok((deleted, left))
}

/// Blocks a user, which the caller has locked, or unblocks it. Returns what follows, in words.
///
/// # Errors
///
/// Database errors.
pub async fn set_blocked(
    connection: &mut PgConnection,
    user: &UserRow,
    blocked: bool,
    dialect: Dialect,
    author: &Author,
) -> sqlx::Result<String> {
    let change = RowChange::begin(&mut *connection, What::User, user.id).await?;
    sqlx::query!("update users set blocked = $2 where id = $1", user.id, i16::from(blocked))
        .execute(&mut *connection)
        .await?;
    change.record(connection, author).await?;
    let is_ineffective = blocked && !dialect.refuses_blocked_users();
    Ok(match (blocked, is_ineffective) {
        (true, false) => format!("{} is blocked.", user.username),
        (true, true) => format!(
            "{} is blocked, but the dialect x7 admits blocked users, as MOR does: remove the key or the rights too.",
            user.username
        ),
        (false, _) => format!("{} is unblocked.", user.username),
    })
}
