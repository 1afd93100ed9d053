//! `/login` and `/logout`.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Extension;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect};
use axum_extra::extract::cookie::CookieJar;
use minijinja::context;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::console::Console;
use crate::console::access::Access;
use crate::console::accounts;
use crate::console::form::{Form, NoFields, PublicForm};
use crate::console::render::PageResult;
use crate::console::route::Route;
use crate::console::session;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/login", Access::Public, show),
        Route::post("/login", Access::Public, log_in),
        Route::post("/logout", Access::ALL, log_out),
    ]
}

#[derive(Debug, Deserialize)]
struct Fields {
    name: String,
    password: SecretString,
    /// The code of the second factor, for accounts that have one.
    #[serde(default)]
    code: SecretString,
    /// The page to show then.
    #[serde(default)]
    next: String,
}

/// The parameters of the page.
#[derive(Debug, Default, Deserialize)]
struct Parameters {
    #[serde(default)]
    next: String,
}

async fn show(
    State(console): State<Arc<Console>>,
    Extension(client): Extension<IpAddr>,
    cookies: CookieJar,
    Query(Parameters { next }): Query<Parameters>,
) -> PageResult {
    if session::load(&console, &cookies, client, true).await?.is_some() {
        return Ok(Redirect::to(local_path(&next)).into_response());
    }
    let has_ended = session::has_cookie(&console, &cookies);
    console.render_public("login.html", context! { name => "", is_wrong => false, has_ended, next })
}

/// Returns the page to show after the login: a path of the console, as `router::login_path` writes it.
fn local_path(next: &str) -> &str {
    // Browsers read "//host" and "/\host" as addresses of another server.
    let is_local = next.starts_with('/')
        && !next.starts_with("//")
        && !next.contains('\\')
        && next.bytes().all(|byte| byte.is_ascii_graphic());
    if is_local { next } else { "/dashboard" }
}

/// Checks name, password and code, and starts a session with a new secret. Which of them is wrong is not said.
async fn log_in(
    State(console): State<Arc<Console>>,
    Extension(client): Extension<IpAddr>,
    headers: HeaderMap,
    PublicForm(Fields { name, password, code, next }): PublicForm<Fields>,
) -> PageResult {
    let mut attempt = console.attempts.begin(client, &name).await?;
    let account = accounts::find(&mut *console.pool.acquire().await?, &name).await?;
    let is_password = attempt.check_password(account.as_ref(), password.expose_secret()).await?;
    let account = account.filter(|account| is_password && console.admits(account));
    let is_complete = match &account {
        Some(account) if account.totp_secret.is_some() => {
            attempt.check_code(&console.pool, account, code.expose_secret()).await?
        }
        account => account.is_some(),
    };
    drop(attempt);
    if let Some(account) = account.filter(|_| is_complete) {
        let mut connection = console.pool.acquire().await?;
        if let Some(cookies) = session::start(&console, &mut connection, &account, client, &headers).await? {
            tracing::info!(%client, account = account.name, "console login");
            return Ok((cookies, Redirect::to(local_path(&next))).into_response());
        }
    }
    let page = console.render_public("login.html", context! { name, is_wrong => true, has_ended => false, next })?;
    Ok((StatusCode::UNAUTHORIZED, page).into_response())
}

/// Deletes the session: its cookie is worth nothing from then on.
async fn log_out(State(console): State<Arc<Console>>, cookies: CookieJar, form: Form<NoFields>) -> PageResult {
    sqlx::query!("delete from console_sessions where id = $1", form.session.id).execute(&console.pool).await?;
    Ok((cookies.add(session::removal_cookie(&console)), Redirect::to("/login")).into_response())
}
