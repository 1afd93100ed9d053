//! The second factor of accounts, and their recovery codes: what is accepted, and what replaces it.

use secrecy::ExposeSecret;
use serde_json::json;
use sha2::{Digest, Sha256};
use sqlx::PgConnection;

use super::accounts::{Account, end_sessions};
use super::totp;
use crate::store::change_log::Author;

/// The number of recovery codes that an account gets.
const RECOVERY_CODES: usize = 10;
/// The number of random bytes of a recovery code: 80 bits, sixteen characters.
const RECOVERY_CODE_BYTES: usize = 10;

impl Account {
    /// Stores a new secret of the second factor, which waits for its first code: see [`enroll`]. Until then the old one
    /// counts, if there is one.
    ///
    /// # Errors
    ///
    /// Database errors.
    pub async fn set_pending_totp(
        &self,
        connection: &mut PgConnection,
        secret: &[u8],
        session_id: i64,
        author: &Author,
    ) -> sqlx::Result<()> {
        sqlx::query!(
            "update console_accounts set totp_pending = $2, totp_pending_at = now() at time zone 'utc',
                 totp_pending_session_id = $3
             where id = $1",
            self.id,
            secret,
            session_id
        )
        .execute(&mut *connection)
        .await?;
        let [before, after] = [false, true].map(|is_pending| json!({ "pending_secret": is_pending }));
        self.record_change(connection, author, before, after).await
    }

    /// Stores another secret of the second factor, which counts at once, and ends the sessions of the account except
    /// the one to keep. Recovery codes of the old one are deleted.
    ///
    /// # Errors
    ///
    /// Database errors.
    pub async fn set_totp(
        &self,
        connection: &mut PgConnection,
        secret: &[u8],
        kept_session: Option<i64>,
        author: &Author,
    ) -> sqlx::Result<()> {
        sqlx::query!(
            "update console_accounts set totp_secret = $2, totp_last_step = null,
                 totp_pending = null, totp_pending_at = null, totp_pending_session_id = null
             where id = $1",
            self.id,
            secret
        )
        .execute(&mut *connection)
        .await?;
        sqlx::query!("delete from console_recovery_codes where account_id = $1", self.id)
            .execute(&mut *connection)
            .await?;
        end_sessions(&mut *connection, self.id, kept_session).await?;
        let before = json!({ "second_factor": self.totp_secret.is_some(), "new_secret": false });
        let after = json!({ "second_factor": true, "new_secret": true });
        self.record_change(connection, author, before, after).await
    }

    /// Replaces the recovery codes by new ones, which are returned in the form that users type.
    ///
    /// # Errors
    ///
    /// Database errors, or no random bytes.
    pub async fn replace_recovery_codes(&self, connection: &mut PgConnection) -> sqlx::Result<Vec<String>> {
        let codes: Vec<String> = (0..RECOVERY_CODES).map(|_| random_code()).collect::<Result<_, _>>()?;
        let hashes: Vec<Vec<u8>> = codes.iter().map(|code| hash_code(code)).collect();
        sqlx::query!("delete from console_recovery_codes where account_id = $1", self.id)
            .execute(&mut *connection)
            .await?;
        sqlx::query!(
            "insert into console_recovery_codes (code_sha256, account_id) select hash, $2 from unnest($1::bytea[]) hash",
            &hashes,
            self.id
        )
        .execute(connection)
        .await?;
        Ok(codes)
    }

    /// Accepts the current code of the second factor, or a recovery code, each of them once. `None`: the code is wrong.
    /// A used recovery code is a row of the change log.
    ///
    /// # Errors
    ///
    /// Database errors.
    pub async fn spend_code(&self, connection: &mut PgConnection, code: &str) -> sqlx::Result<Option<SpentCode>> {
        let Some(secret) = &self.totp_secret else { return Ok(None) };
        if let Some(step) = totp::matching_step(secret.expose_secret(), code, current_step(&mut *connection).await?) {
            return Ok(spend_step(connection, self.id, step).await?.then_some(SpentCode::SecondFactor));
        }
        let deleted = sqlx::query!(
            "delete from console_recovery_codes where account_id = $1 and code_sha256 = $2",
            self.id,
            hash_code(code)
        );
        if deleted.execute(&mut *connection).await?.rows_affected() == 0 {
            return Ok(None);
        }
        let left = sqlx::query_scalar!(
            r#"select count(*) as "count!" from console_recovery_codes where account_id = $1"#,
            self.id
        );
        let left = left.fetch_one(&mut *connection).await?;
        let [before, after] = [left + 1, left].map(|count| json!({ "recovery_codes": count }));
        self.record_change(connection, &Author::Console { account: self.name.clone() }, before, after).await?;
        Ok(Some(SpentCode::Recovery))
    }
}

/// A code that was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpentCode {
    /// A code of the second factor.
    SecondFactor,
    /// A recovery code.
    Recovery,
}

/// Whether the code is one of the secret that the session has got: see [`load_pending_secret`].
///
/// # Errors
///
/// Database errors.
pub async fn is_first_code(
    connection: &mut PgConnection,
    account_id: i64,
    session_id: i64,
    code: &str,
) -> sqlx::Result<bool> {
    let secret = load_pending_secret(&mut *connection, account_id, session_id).await?;
    let now_step = current_step(&mut *connection).await?;
    Ok(secret.is_some_and(|secret| totp::matching_step(&secret, code, now_step).is_some()))
}

/// Makes the secret that the session has got count, if the code is its first one. The other sessions of the account
/// end.
///
/// # Errors
///
/// Database errors.
pub async fn enroll(
    connection: &mut PgConnection,
    account: &Account,
    session_id: i64,
    code: &str,
    author: &Author,
) -> sqlx::Result<bool> {
    let Some(secret) = load_pending_secret(&mut *connection, account.id, session_id).await? else { return Ok(false) };
    let now_step = current_step(&mut *connection).await?;
    let Some(step) = totp::matching_step(&secret, code, now_step) else { return Ok(false) };
    let taken = sqlx::query!(
        "update console_accounts set totp_pending = null where id = $1 and totp_pending = $2",
        account.id,
        secret
    );
    if taken.execute(&mut *connection).await?.rows_affected() == 0 {
        return Ok(false);
    }
    account.set_totp(&mut *connection, &secret, Some(session_id), author).await?;
    spend_step(connection, account.id, step).await
}

/// Returns the secret that the session has got less than 15 minutes ago, and that waits for its first code.
///
/// # Errors
///
/// Database errors.
pub async fn load_pending_secret(
    connection: &mut PgConnection,
    account_id: i64,
    session_id: i64,
) -> sqlx::Result<Option<Vec<u8>>> {
    let secret = sqlx::query_scalar!(
        "select totp_pending from console_accounts
         where id = $1 and totp_pending_session_id = $2
             and totp_pending_at > now() at time zone 'utc' - interval '15 minutes'",
        account_id,
        session_id
    );
    Ok(secret.fetch_optional(connection).await?.flatten())
}

/// Marks the step as used. `false`: it or a later one was used before.
async fn spend_step(connection: &mut PgConnection, account_id: i64, step: u64) -> sqlx::Result<bool> {
    let spent = sqlx::query!(
        "update console_accounts set totp_last_step = $2 where id = $1 and coalesce(totp_last_step, -1) < $2",
        account_id,
        i64::try_from(step).unwrap_or(i64::MAX)
    );
    Ok(spent.execute(connection).await?.rows_affected() == 1)
}

/// Returns the step of the second factor, by the clock of the database.
async fn current_step(connection: &mut PgConnection) -> sqlx::Result<u64> {
    let time = sqlx::query_scalar!(r#"select extract(epoch from clock_timestamp())::bigint as "time!""#);
    Ok(totp::step_at(u64::try_from(time.fetch_one(connection).await?).unwrap_or(0)))
}

/// Returns the hash of a recovery code, as users type it: letter case, spaces and hyphens are ignored.
fn hash_code(code: &str) -> Vec<u8> {
    let code: String = code.chars().filter(char::is_ascii_alphanumeric).collect();
    Sha256::digest(code.to_ascii_uppercase()).to_vec()
}

fn random_code() -> sqlx::Result<String> {
    let mut bytes = [0; RECOVERY_CODE_BYTES];
    getrandom::fill(&mut bytes).map_err(|error| sqlx::Error::Io(std::io::Error::other(error)))?;
    let code = totp::base32(&bytes);
    let (first, last) = code.split_at(code.len() / 2);
    Ok(format!("{first}-{last}"))
}
