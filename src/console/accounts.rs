//! Accounts of the console: the table `console_accounts`. API users and their passwords do not open the console.

use secrecy::{ExposeSecret, SecretSlice, SecretString};
use serde_json::json;
use sqlx::PgConnection;

use super::Console;
use super::access::Role;
use super::error::{ConsoleError, sentence};
use crate::auth::passwords;
use crate::store::change_log::{Author, Change, Target, What};

/// An account.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "self-explanatory names")]
pub struct Account {
    pub id: i64,
    pub name: String,
    pub role: Role,
    /// For a reseller, the id of the user whose data the account sees.
    pub user_id: Option<i32>,
    pub can_reveal_pins: bool,
    /// The account of `serve --demo`, which needs no second factor.
    pub is_demo: bool,
    pub password_argon2: SecretString,
    /// The secret of the second factor, once its first code was correct.
    pub totp_secret: Option<SecretSlice<u8>>,
    pub is_blocked: bool,
}

/// A row of `console_accounts`.
struct AccountRow {
    id: i64,
    name: String,
    role: String,
    user_id: Option<i32>,
    can_reveal_pins: bool,
    is_demo: bool,
    password_argon2: String,
    totp_secret: Option<Vec<u8>>,
    is_blocked: bool,
}

impl AccountRow {
    fn read(self) -> sqlx::Result<Account> {
        let Self { id, name, user_id, can_reveal_pins, is_demo, totp_secret, is_blocked, .. } = self;
        let role = self.role.parse().map_err(|error| sqlx::Error::Decode(format!("role: {error}").into()))?;
        let (password_argon2, totp_secret) = (self.password_argon2.into(), totp_secret.map(SecretSlice::from));
        Ok(Account { id, name, role, user_id, can_reveal_pins, is_demo, password_argon2, totp_secret, is_blocked })
    }
}

/// Finds an account by its name; letter case is ignored.
///
/// # Errors
///
/// Database errors.
pub async fn find(connection: &mut PgConnection, name: &str) -> sqlx::Result<Option<Account>> {
    if name.contains('\0') {
        // PostgreSQL has no text with this character.
        return Ok(None);
    }
    let row = sqlx::query_as!(
        AccountRow,
        r#"select id, name, role, user_id, can_reveal_pins, is_demo, password_argon2,
               totp_secret, blocked_at is not null as "is_blocked!"
           from console_accounts where fold_case(name) = fold_case($1)"#,
        name
    );
    row.fetch_optional(connection).await?.map(AccountRow::read).transpose()
}

/// Reads an account by its id.
///
/// # Errors
///
/// Database errors.
pub async fn load(connection: &mut PgConnection, id: i64) -> sqlx::Result<Option<Account>> {
    let row = sqlx::query_as!(
        AccountRow,
        r#"select id, name, role, user_id, can_reveal_pins, is_demo, password_argon2,
               totp_secret, blocked_at is not null as "is_blocked!"
           from console_accounts where id = $1"#,
        id
    );
    row.fetch_optional(connection).await?.map(AccountRow::read).transpose()
}

/// A new account. Without `Debug`: it has secrets.
#[expect(missing_docs, reason = "as in `Account`")]
pub struct NewAccount<'a> {
    pub name: &'a str,
    pub role: Role,
    pub user_id: Option<i32>,
    pub can_reveal_pins: bool,
    pub is_demo: bool,
    pub password_argon2: &'a str,
    /// The secret of the second factor, which the operator gets at once.
    pub totp_secret: Option<&'a [u8]>,
}

impl NewAccount<'_> {
    /// Writes the account and its row of the change log, in the caller's transaction. `None`: the name is taken.
    ///
    /// # Errors
    ///
    /// Database errors.
    pub async fn insert(&self, connection: &mut PgConnection, author: &Author) -> sqlx::Result<Option<i64>> {
        let id = sqlx::query_scalar!(
            "insert into console_accounts
                 (name, role, user_id, can_reveal_pins, is_demo, password_argon2, totp_secret)
             values ($1, $2, $3, $4, $5, $6, $7)
             on conflict (fold_case(name)) do nothing returning id",
            self.name,
            self.role.name(),
            self.user_id,
            self.can_reveal_pins,
            self.is_demo,
            self.password_argon2,
            self.totp_secret
        );
        let Some(id) = id.fetch_optional(&mut *connection).await? else { return Ok(None) };
        let role = self.role.name();
        let fields = json!({ "role": role, "user_id": self.user_id, "can_reveal_pins": self.can_reveal_pins });
        let target = Target::Row { id, name: self.name };
        let change = Change { what: What::ConsoleAccount, target, before: None, after: Some(fields.to_string()) };
        change.record(connection, author).await?;
        Ok(Some(id))
    }
}

impl Account {
    /// Writes a row of the change log about the account.
    ///
    /// # Errors
    ///
    /// Database errors.
    pub async fn record_change(
        &self,
        connection: &mut PgConnection,
        author: &Author,
        before: serde_json::Value,
        after: serde_json::Value,
    ) -> sqlx::Result<()> {
        let target = Target::Row { id: self.id, name: &self.name };
        let (before, after) = (Some(before.to_string()), Some(after.to_string()));
        Change { what: What::ConsoleAccount, target, before, after }.record(connection, author).await
    }

    /// Blocks the account and ends its sessions, or unblocks it.
    ///
    /// # Errors
    ///
    /// Database errors.
    pub async fn set_blocked(
        &self,
        connection: &mut PgConnection,
        is_blocked: bool,
        author: &Author,
    ) -> sqlx::Result<()> {
        sqlx::query!(
            "update console_accounts set blocked_at = case when $2 then now() at time zone 'utc' end where id = $1",
            self.id,
            is_blocked
        )
        .execute(&mut *connection)
        .await?;
        end_sessions(&mut *connection, self.id, None).await?;
        self.record_change(connection, author, json!({ "blocked": self.is_blocked }), json!({ "blocked": is_blocked }))
            .await
    }

    /// Gives the account the right to PINs, or takes it away. It counts from the next request on.
    ///
    /// # Errors
    ///
    /// Database errors.
    pub async fn set_can_reveal_pins(
        &self,
        connection: &mut PgConnection,
        can_reveal: bool,
        author: &Author,
    ) -> sqlx::Result<()> {
        sqlx::query!("update console_accounts set can_reveal_pins = $2 where id = $1", self.id, can_reveal)
            .execute(&mut *connection)
            .await?;
        let [before, after] = [self.can_reveal_pins, can_reveal].map(|can| json!({ "can_reveal_pins": can }));
        self.record_change(connection, author, before, after).await
    }

    /// Stores another password, and ends the sessions of the account except the one to keep.
    ///
    /// # Errors
    ///
    /// Database errors.
    pub async fn set_password(
        &self,
        connection: &mut PgConnection,
        password_argon2: &str,
        kept_session: Option<i64>,
        author: &Author,
    ) -> sqlx::Result<()> {
        sqlx::query!("update console_accounts set password_argon2 = $2 where id = $1", self.id, password_argon2)
            .execute(&mut *connection)
            .await?;
        end_sessions(&mut *connection, self.id, kept_session).await?;
        let hashes = [self.password_argon2.expose_secret(), password_argon2];
        let [before, after] = hashes.map(|hash| json!({ "password_argon2": hash }));
        self.record_change(connection, author, before, after).await
    }
}

/// Ends the sessions of an account, except the one to keep.
///
/// # Errors
///
/// Database errors.
pub async fn end_sessions(connection: &mut PgConnection, account_id: i64, kept: Option<i64>) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from console_sessions where account_id = $1 and id is distinct from $2::bigint",
        account_id,
        kept
    )
    .execute(connection)
    .await?;
    Ok(())
}

impl Console {
    /// Checks a new password of an account or an API user, and hashes it.
    ///
    /// # Errors
    ///
    /// [`ConsoleError::Refused`], [`ConsoleError::Failed`].
    pub async fn hash_new_password(
        &self,
        password: SecretString,
        repeated: &SecretString,
    ) -> Result<String, ConsoleError> {
        if password.expose_secret() != repeated.expose_secret() {
            return Err(ConsoleError::Refused("The two new passwords differ.".to_owned()));
        }
        passwords::check_new(password.expose_secret()).map_err(|message| ConsoleError::Refused(sentence(&message)))?;
        self.hash_password(password).await
    }

    /// Hashes a password.
    ///
    /// # Errors
    ///
    /// [`ConsoleError::Failed`].
    pub async fn hash_password(&self, password: SecretString) -> Result<String, ConsoleError> {
        let hash = tokio::task::spawn_blocking(move || passwords::hash_argon2(password.expose_secret())).await;
        hash.ok().flatten().ok_or_else(|| ConsoleError::Failed("cannot hash the password".to_owned()))
    }
}
