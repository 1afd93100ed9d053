//! Sessions: who requests a page. The cookie has a secret of 256 bits, the database its SHA-256.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use axum_extra::extract::cookie::{Cookie, CookieJar, SameSite};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use sqlx::PgConnection;

use super::Console;
use super::access::Role;
use super::accounts::{self, Account};
use super::error::ConsoleError;
use crate::store::change_log::Author;

/// Length of the part of `User-Agent` that is stored.
const BROWSER_CHARS_MAX: usize = 200;

/// A session, with its account.
#[derive(Debug, Clone)]
pub struct Session {
    /// The id in `console_sessions`.
    pub id: i64,
    /// The account that logged in.
    pub account: Account,
    /// The client's address.
    pub client: IpAddr,
    /// Each form has this token. It is derived from the secret, so that another session's token does not match.
    pub form_token: SecretString,
    /// The path of the request.
    pub path: String,
    /// The text about the change that the previous form made.
    pub message: Option<String>,
}

impl Session {
    /// The account, as the author of changes.
    pub fn author(&self) -> Author {
        Author::Console { account: self.account.name.clone() }
    }

    /// The id of the user whose groups, cards and sales the account sees. `None`: all.
    pub fn owner_id(&self) -> Option<i32> {
        match self.account.role {
            // The check constraint of the table makes the user certain. -1 has no data.
            Role::Reseller => Some(self.account.user_id.unwrap_or(-1)),
            Role::Admin | Role::Support | Role::ReadOnly => None,
        }
    }

    /// Whether the account may see PINs of cards.
    pub fn may_reveal_pins(&self) -> bool {
        self.account.can_reveal_pins && self.account.role != Role::ReadOnly
    }

    /// Whether the account must set up the second factor before it sees anything else.
    pub fn must_enroll(&self) -> bool {
        self.account.role == Role::Admin && self.account.totp_secret.is_none() && !self.account.is_demo
    }
}

/// The session of a request that `router::admit` has admitted.
impl FromRequestParts<Arc<Console>> for Session {
    type Rejection = ConsoleError;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Console>) -> Result<Self, ConsoleError> {
        let session = parts.extensions.get::<Self>().cloned();
        session.ok_or_else(|| ConsoleError::Failed("the route of a page is public".to_owned()))
    }
}

/// Creates a session with a cookie, which ends the session of the request's cookie. `None`: the account was blocked, or
/// has got another password or second factor, after `account` was read.
///
/// # Errors
///
/// Database errors, or no random bytes.
pub async fn start(
    console: &Console,
    connection: &mut PgConnection,
    account: &Account,
    client: IpAddr,
    headers: &HeaderMap,
) -> sqlx::Result<Option<CookieJar>> {
    let cookies = CookieJar::from_headers(headers);
    let browser = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(|error| sqlx::Error::Io(std::io::Error::other(error)))?;
    let secret = hex::encode(secret);
    let browser: String = browser.chars().filter(|char| !char.is_control()).take(BROWSER_CHARS_MAX).collect();
    // The lock waits for a change of the account that has not ended: that change cannot see the new session to end it.
    let started = sqlx::query!(
        "insert into console_sessions (secret_sha256, account_id, client, browser)
         select $1, id, $3, $4 from console_accounts
         where id = $2 and blocked_at is null and password_argon2 = $5
             and totp_secret is not distinct from $6
         for share",
        hash_secret(&secret),
        account.id,
        client.to_string(),
        browser,
        account.password_argon2.expose_secret(),
        account.totp_secret.as_ref().map(|secret| secret.expose_secret())
    );
    if started.execute(&mut *connection).await?.rows_affected() == 0 {
        return Ok(None);
    }
    if let Some(cookie) = cookies.get(cookie_name(console)) {
        sqlx::query!("delete from console_sessions where secret_sha256 = $1", hash_secret(cookie.value()))
            .execute(connection)
            .await?;
    }
    Ok(Some(cookies.add(build_cookie(console, secret))))
}

/// Whether the request has the cookie of a session, also of one that has ended.
pub fn has_cookie(console: &Console, cookies: &CookieJar) -> bool {
    cookies.get(cookie_name(console)).is_some()
}

/// Returns the cookie with the secret.
fn build_cookie(console: &Console, secret: String) -> Cookie<'static> {
    let is_secure = console.origin.is_secure();
    Cookie::build((cookie_name(console), secret))
        .http_only(true)
        .same_site(SameSite::Strict)
        .secure(is_secure)
        .path("/")
        .build()
}

/// Returns a cookie that replaces the session's by none.
pub fn removal_cookie(console: &Console) -> Cookie<'static> {
    let mut cookie = build_cookie(console, String::new());
    cookie.make_removal();
    cookie
}

/// Browsers accept `__Host-` only over TLS, and only from the host itself.
fn cookie_name(console: &Console) -> &'static str {
    if console.origin.is_secure() { "__Host-mortise" } else { "mortise" }
}

/// Finds the session of the cookie, unless it has ended: 30 minutes after the last request, 12 hours after the login,
/// or when the account is blocked. The 30 minutes begin again if `is_use`.
///
/// # Errors
///
/// Database errors.
pub async fn load(
    console: &Console,
    cookies: &CookieJar,
    client: IpAddr,
    is_use: bool,
) -> sqlx::Result<Option<Session>> {
    let Some(cookie) = cookies.get(cookie_name(console)) else { return Ok(None) };
    let secret = cookie.value();
    let mut connection = console.pool.acquire().await?;
    let found = sqlx::query!(
        r#"select s.id, account_id, last_seen_at < now() at time zone 'utc' - interval '1 minute' as "is_old!"
           from console_sessions s join console_accounts a on a.id = s.account_id
           where secret_sha256 = $1 and a.blocked_at is null
               and s.last_seen_at > now() at time zone 'utc' - interval '30 minutes'
               and s.created_at > now() at time zone 'utc' - interval '12 hours'"#,
        hash_secret(secret)
    );
    let Some(found) = found.fetch_optional(&mut *connection).await? else { return Ok(None) };
    if found.is_old && is_use {
        sqlx::query!("update console_sessions set last_seen_at = now() at time zone 'utc' where id = $1", found.id)
            .execute(&mut *connection)
            .await?;
    }
    let account = accounts::load(&mut connection, found.account_id).await?;
    let Some(account) = account.filter(|account| console.admits(account)) else { return Ok(None) };
    let form_token = hex::encode(Sha256::digest(format!("form {secret}"))).into();
    Ok(Some(Session { id: found.id, account, client, form_token, path: String::new(), message: None }))
}

/// Deletes the sessions that have ended, and the records of forms that are older than a session.
///
/// # Errors
///
/// Database errors.
pub async fn delete_ended(connection: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from console_sessions where last_seen_at < now() at time zone 'utc' - interval '30 minutes'
             or created_at < now() at time zone 'utc' - interval '12 hours'"
    )
    .execute(&mut *connection)
    .await?;
    // Two days: those of the current day count against console_support_max.
    sqlx::query!("delete from console_submissions where created_at < now() at time zone 'utc' - interval '2 days'")
        .execute(connection)
        .await?;
    Ok(())
}

fn hash_secret(secret: &str) -> Vec<u8> {
    Sha256::digest(secret).to_vec()
}
