//! `/login` and `/logout`.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect};
use axum_extra::extract::cookie::CookieJar;
use minijinja::context;
use serde::Deserialize;

use crate::console::Console;
use crate::console::access::Access;
use crate::console::accounts;
use crate::console::form::{self, Form};
use crate::console::render::PageResult;
use crate::console::router::Route;
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
    password: String,
    /// The code of the second factor, for accounts that have one.
    #[serde(default)]
    code: String,
}

/// The fields of a form without any.
#[derive(Debug, Deserialize)]
struct NoFields {}

async fn show(
    State(console): State<Arc<Console>>,
    Extension(client): Extension<IpAddr>,
    cookies: CookieJar,
) -> PageResult {
    match session::load(&console, &cookies, client).await? {
        Some(_) => Ok(Redirect::to("/dashboard").into_response()),
        None => console.render_public("login.html", context! { name => "", is_wrong => false }),
    }
}

/// Checks name, password and code, and starts a session with a new secret. Which of them is wrong is not said.
async fn log_in(
    State(console): State<Arc<Console>>,
    Extension(client): Extension<IpAddr>,
    cookies: CookieJar,
    headers: HeaderMap,
    axum::Form(Fields { name, password, code }): axum::Form<Fields>,
) -> PageResult {
    form::limit_attempts(&console, client, &name)?;
    let account = accounts::find(&mut *console.pool.acquire().await?, &name).await?;
    let is_password = form::is_password(&console, account.as_ref(), &password).await?;
    let mut connection = console.pool.acquire().await?;
    let account = account.filter(|account| is_password && !account.is_blocked);
    let is_complete = match &account {
        Some(account) if account.totp_secret.is_some() => account.spend_code(&mut connection, &code).await?,
        account => account.is_some(),
    };
    let Some(account) = account.filter(|_| is_complete) else {
        form::record_failure(&console, client, &name);
        let page = console.render_public("login.html", context! { name, is_wrong => true })?;
        return Ok((StatusCode::UNAUTHORIZED, page).into_response());
    };
    let browser = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    session::delete_ended(&mut connection).await?;
    let cookie = session::start(&console, &mut connection, account.id, client, browser).await?;
    tracing::info!(%client, account = account.name, "console login");
    Ok((cookies.add(cookie), Redirect::to("/dashboard")).into_response())
}

/// Deletes the session: its cookie is worth nothing from then on.
async fn log_out(State(console): State<Arc<Console>>, cookies: CookieJar, form: Form<NoFields>) -> PageResult {
    sqlx::query!("delete from console_sessions where id = $1", form.session.id).execute(&console.pool).await?;
    Ok((cookies.add(session::removal_cookie(&console)), Redirect::to("/login")).into_response())
}
