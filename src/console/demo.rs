//! The link of `serve --demo`, which opens the console once without a password.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Extension;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Redirect};
use minijinja::context;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use sqlx::PgConnection;
use tokio::time::Instant;

use super::Console;
use super::access::Role;
use super::accounts::{self, Account, NewAccount};
use super::error::ConsoleError;
use super::form::PublicForm;
use super::render::PageResult;
use super::session;
use crate::auth::passwords::hash_argon2;
use crate::db::seed;
use crate::managed_postgres::data_directory::random_hex;
use crate::store::change_log::Author;

/// How long the link is valid.
const VALID: Duration = Duration::from_mins(10);
/// The account that the link opens.
const ACCOUNT: &str = "demo";
/// Its password, which the pages ask for again before some changes. It is public: the demo listens on loopback.
pub const PASSWORD: &str = "mortise-demo";

/// What a server with `--demo` allows in addition.
#[derive(Debug, Default)]
pub(super) struct Demo {
    /// Whether the account of the demo, whose password is public, may be used.
    is_on: AtomicBool,
    link: Mutex<Option<DemoLink>>,
}

/// A link that was not opened yet.
#[derive(Debug)]
struct DemoLink {
    secret_sha256: [u8; 32],
    created_at: Instant,
}

/// The parameters of the link, and the fields of its form.
#[derive(Debug, Deserialize)]
pub(super) struct DemoFields {
    #[serde(default)]
    key: SecretString,
}

impl Console {
    /// Creates the account of the demo if it does not exist, and returns the path of a link that opens it once. `None`:
    /// the database is not the demo's, or other machines reach the console at `console_url`. An account with a public
    /// password must not open other data, and not to others.
    ///
    /// # Errors
    ///
    /// Database errors, or no random bytes.
    pub async fn create_demo_link(&self) -> Result<Option<String>, ConsoleError> {
        if self.origin.url().is_some() {
            return Ok(None);
        }
        let account = accounts::find(&mut *self.pool.acquire().await?, ACCOUNT).await?;
        let is_demo = match account {
            Some(account) => account.is_demo,
            None => seed::has_demo_key(&self.pool).await?,
        };
        if !is_demo {
            return Ok(None);
        }
        ensure_account(&mut *self.pool.acquire().await?).await?;
        let secret = random_hex().map_err(|error| ConsoleError::Failed(error.to_string()))?;
        let link = DemoLink { secret_sha256: Sha256::digest(&secret).into(), created_at: Instant::now() };
        *self.demo.link.lock().unwrap_or_else(PoisonError::into_inner) = Some(link);
        self.demo.is_on.store(true, Ordering::Relaxed);
        Ok(Some(format!("/demo?key={secret}")))
    }

    /// Whether the account may be used: it is not blocked. The password of the demo's account is public: the account is
    /// refused unless this server is the demo.
    pub(super) fn admits(&self, account: &Account) -> bool {
        !account.is_blocked && (!account.is_demo || self.demo.is_on.load(Ordering::Relaxed))
    }

    /// Without the demo, the page does not exist.
    fn demand_demo(&self) -> Result<(), ConsoleError> {
        match self.demo.is_on.load(Ordering::Relaxed) {
            true => Ok(()),
            false => Err(ConsoleError::NotFound("There is no such page.".to_owned())),
        }
    }

    /// Whether the key is the link's. The link is deleted if `spend`.
    fn check_demo_key(&self, key: &str, spend: bool) -> bool {
        let mut link = self.demo.link.lock().unwrap_or_else(PoisonError::into_inner);
        let hash: [u8; 32] = Sha256::digest(key).into();
        let is_valid =
            link.as_ref().is_some_and(|link| link.secret_sha256 == hash && link.created_at.elapsed() < VALID);
        if is_valid && spend {
            *link = None;
        }
        is_valid
    }
}

async fn ensure_account(connection: &mut PgConnection) -> Result<(), ConsoleError> {
    if accounts::find(&mut *connection, ACCOUNT).await?.is_some() {
        return Ok(());
    }
    let hash = hash_argon2(PASSWORD).ok_or_else(|| ConsoleError::Failed("cannot hash the password".to_owned()))?;
    let account = NewAccount {
        name: ACCOUNT,
        role: Role::Admin,
        user_id: None,
        can_reveal_pins: true,
        is_demo: true,
        password_argon2: &hash,
        totp_secret: None,
    };
    account.insert(connection, &Author::Console { account: ACCOUNT.to_owned() }).await?;
    Ok(())
}

/// `GET /demo?key=…`: a page whose button opens the console. A program that fetches links in advance does not spend it.
pub(super) async fn get_demo(State(console): State<Arc<Console>>, Query(fields): Query<DemoFields>) -> PageResult {
    console.demand_demo()?;
    let is_valid = console.check_demo_key(fields.key.expose_secret(), false);
    console.render_public("demo.html", context! { is_valid, key => fields.key.expose_secret(), password => PASSWORD })
}

/// `POST /demo`: opens a session.
pub(super) async fn post_demo(
    State(console): State<Arc<Console>>,
    Extension(client): Extension<IpAddr>,
    headers: HeaderMap,
    PublicForm(fields): PublicForm<DemoFields>,
) -> PageResult {
    console.demand_demo()?;
    if !console.check_demo_key(fields.key.expose_secret(), true) {
        return console.render_public("demo.html", context! { is_valid => false, key => "", password => PASSWORD });
    }
    let mut connection = console.pool.acquire().await?;
    let account = accounts::find(&mut connection, ACCOUNT).await?;
    let account = account.filter(|account| account.is_demo && console.admits(account));
    let not_found = || ConsoleError::NotFound("There is no account demo.".to_owned());
    let account = account.ok_or_else(not_found)?;
    let cookies = session::start(&console, &mut connection, &account, client, &headers).await?.ok_or_else(not_found)?;
    Ok((cookies, Redirect::to("/dashboard")).into_response())
}
