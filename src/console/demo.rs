//! The link of `serve --demo`, which opens the console once without a password.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use axum::Extension;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Redirect};
use axum_extra::extract::cookie::CookieJar;
use minijinja::context;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use sqlx::PgConnection;

use super::Console;
use super::access::Role;
use super::accounts::{self, NewAccount};
use super::error::ConsoleError;
use super::render::PageResult;
use super::session;
use crate::auth::passwords::hash_argon2;
use crate::managed_postgres::data_directory::random_hex;
use crate::store::change_log::Author;

/// How long the link is valid.
const VALID: Duration = Duration::from_mins(10);
/// The account that the link opens.
const ACCOUNT: &str = "demo";
/// Its password, which the pages ask for again before some changes. It is public: the demo listens on loopback.
pub const PASSWORD: &str = "mortise-demo";

/// A link that was not opened yet.
#[derive(Debug)]
pub(super) struct DemoLink {
    secret_sha256: [u8; 32],
    created_at: Instant,
}

/// The parameters of the link, and the fields of its form.
#[derive(Debug, Deserialize)]
pub(super) struct DemoFields {
    #[serde(default)]
    key: String,
}

impl Console {
    /// Creates the account of the demo if it does not exist, and returns the path of a link that opens it once.
    ///
    /// # Errors
    ///
    /// Database errors, or no random bytes.
    pub async fn create_demo_link(&self) -> Result<String, ConsoleError> {
        let mut connection = self.pool.acquire().await?;
        ensure_account(&mut connection).await?;
        let secret = random_hex().map_err(|error| ConsoleError::Failed(error.to_string()))?;
        let link = DemoLink { secret_sha256: Sha256::digest(&secret).into(), created_at: Instant::now() };
        *self.demo.lock().unwrap_or_else(PoisonError::into_inner) = Some(link);
        Ok(format!("/demo?key={secret}"))
    }

    /// Whether the key is the link's. The link is deleted if `spend`.
    fn check_demo_key(&self, key: &str, spend: bool) -> bool {
        let mut link = self.demo.lock().unwrap_or_else(PoisonError::into_inner);
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
    let is_valid = console.check_demo_key(&fields.key, false);
    console.render_public("demo.html", context! { is_valid, key => fields.key, password => PASSWORD })
}

/// `POST /demo`: opens a session.
pub(super) async fn post_demo(
    State(console): State<Arc<Console>>,
    Extension(client): Extension<IpAddr>,
    cookies: CookieJar,
    headers: HeaderMap,
    fields: axum::Form<DemoFields>,
) -> PageResult {
    if !console.check_demo_key(&fields.key, true) {
        return console.render_public("demo.html", context! { is_valid => false, key => "", password => PASSWORD });
    }
    let mut connection = console.pool.acquire().await?;
    let account = accounts::find(&mut connection, ACCOUNT).await?;
    let account = account.filter(|account| account.is_demo && !account.is_blocked);
    let account = account.ok_or_else(|| ConsoleError::NotFound("There is no account demo.".to_owned()))?;
    let browser = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let cookie = session::start(&console, &mut connection, account.id, client, browser).await?;
    Ok((cookies.add(cookie), Redirect::to("/dashboard")).into_response())
}
