//! `/account`: the own password, the second factor, the own sessions.

use std::sync::Arc;

use axum::extract::{Path, State};
use minijinja::{Value, context};
use qrcode::render::svg;
use qrcode::{EcLevel, QrCode};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::console::access::Access;
use crate::console::error::ConsoleError;
use crate::console::form::{ConfirmedForm, Form, NoFields};
use crate::console::render::{PageResult, to_value};
use crate::console::route::Route;
use crate::console::session::Session;
use crate::console::submission::Done;
use crate::console::{Console, second_factor, totp};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/account", Access::ALL, show),
        Route::post("/account/password", Access::ALL, change_password),
        Route::post("/account/sessions/{id}/end", Access::ALL, end_session),
        Route::get("/account/second-factor", Access::ALL, show_second_factor),
        Route::post("/account/second-factor", Access::ALL, enroll),
        Route::post("/account/second-factor/new", Access::ALL, start_enrollment),
        Route::post("/account/recovery-codes", Access::ALL, replace_recovery_codes),
    ]
}

/// A session in the list.
#[derive(Debug, Serialize)]
struct SessionRow {
    id: i64,
    created_at: String,
    last_seen_at: String,
    client: String,
    browser: String,
    is_own: bool,
}

async fn show(State(console): State<Arc<Console>>, session: Session) -> PageResult {
    let sessions = sqlx::query_as!(
        SessionRow,
        r#"select id, to_char(created_at, 'YYYY-MM-DD HH24:MI') as "created_at!",
               to_char(last_seen_at, 'YYYY-MM-DD HH24:MI') as "last_seen_at!", client, browser, id = $2 as "is_own!"
           from console_sessions where account_id = $1 order by last_seen_at desc, id desc limit 100"#,
        session.account.id,
        session.id
    );
    let sessions = sessions.fetch_all(&console.pool).await?;
    let recovery_codes = sqlx::query_scalar!(
        r#"select count(*) as "count!" from console_recovery_codes where account_id = $1"#,
        session.account.id
    );
    let recovery_codes = recovery_codes.fetch_one(&console.pool).await?;
    let sessions = to_value(sessions);
    console.render(&session, "account.html", context! { sessions, recovery_codes })
}

#[derive(Debug, Deserialize)]
struct PasswordFields {
    old_password: SecretString,
    password: SecretString,
    repeated: SecretString,
}

/// Stores the new password, and ends the other sessions of the account.
async fn change_password(State(console): State<Arc<Console>>, form: Form<PasswordFields>) -> PageResult {
    let old_password = form.fields.old_password.clone();
    form.demand_password(old_password)
        .carry_out(&console, async |connection, author, session, fields| {
            let hash = console.hash_new_password(fields.password, &fields.repeated).await?;
            session.account.set_password(connection, &hash, Some(session.id), author).await?;
            Ok(Done::new("/account", "The password was changed. Your other sessions have ended."))
        })
        .await
}

async fn end_session(State(console): State<Arc<Console>>, Path(id): Path<i64>, form: Form<NoFields>) -> PageResult {
    form.carry_out(&console, async |connection, author, session, NoFields {}| {
        let account = &session.account;
        let ended = sqlx::query_scalar!(
            "delete from console_sessions where id = $1 and account_id = $2 returning client",
            id,
            account.id
        );
        let client = ended.fetch_optional(&mut *connection).await?;
        let client = client.ok_or_else(|| ConsoleError::NotFound("There is no such session of yours.".to_owned()))?;
        let (before, after) = (json!({ "session_from": client }), json!({ "session_from": null }));
        account.record_change(connection, author, before, after).await?;
        Ok(Done::new("/account", "The session has ended."))
    })
    .await
}

/// Shows the secret that waits for its first code, or how to get one.
async fn show_second_factor(State(console): State<Arc<Console>>, session: Session) -> PageResult {
    let mut connection = console.pool.acquire().await?;
    let pending = second_factor::load_pending_secret(&mut connection, session.account.id, session.id).await?;
    let (qr, secret) = match &pending {
        Some(secret) => (draw_qr(&totp::key_uri(&session.account.name, secret))?, totp::base32(secret)),
        None => (String::new(), String::new()),
    };
    let is_pending = pending.is_some();
    console.render(&session, "enroll.html", context! { is_pending, qr => Value::from_safe_string(qr), secret })
}

/// Draws the code as SVG, with attributes only: the policy forbids styles.
fn draw_qr(text: &str) -> Result<String, ConsoleError> {
    let code = QrCode::with_error_correction_level(text, EcLevel::M)
        .map_err(|error| ConsoleError::Failed(error.to_string()))?;
    let svg = code.render::<svg::Color<'_>>().min_dimensions(220, 220).build();
    Ok(svg.find("<svg").and_then(|start| svg.get(start..)).unwrap_or_default().to_owned())
}

/// Creates a new secret, which counts from its first code on. An account that has a second factor confirms it with a
/// code of the old one.
async fn start_enrollment(
    State(console): State<Arc<Console>>,
    ConfirmedForm(form): ConfirmedForm<NoFields>,
) -> PageResult {
    form.carry_out(&console, async |connection, author, session, NoFields {}| {
        let secret = totp::new_secret().map_err(|error| ConsoleError::Failed(error.to_string()))?;
        session.account.set_pending_totp(connection, &secret, session.id, author).await?;
        Ok(Done::new("/account/second-factor", "Scan the code, and enter the six digits that the program shows."))
    })
    .await
}

#[derive(Debug, Deserialize)]
struct CodeFields {
    code: SecretString,
}

/// Accepts the first code, and shows the recovery codes once.
async fn enroll(State(console): State<Arc<Console>>, form: Form<CodeFields>) -> PageResult {
    let page_console = console.clone();
    let code = form.fields.code.clone();
    let result = form.demand_first_code(code).carry_out_and_show(
        &console,
        async |connection, author, session, fields| {
            if !second_factor::enroll(
                &mut *connection,
                &session.account,
                session.id,
                fields.code.expose_secret(),
                author,
            )
            .await?
            {
                // Another request has enrolled it.
                return Err(ConsoleError::Refused("The code is wrong, or it was used already.".to_owned()));
            }
            let codes = session.account.replace_recovery_codes(&mut *connection).await?;
            Ok((Done::new("/account", "The second factor is set up."), codes))
        },
        |session, codes| {
            let mut session = session.clone();
            // From now on the navigation has all pages.
            session.account.totp_secret = Some(Vec::new().into());
            page_console.render(&session, "codes.html", context! { codes })
        },
    );
    result.await
}

async fn replace_recovery_codes(
    State(console): State<Arc<Console>>,
    ConfirmedForm(form): ConfirmedForm<NoFields>,
) -> PageResult {
    let page_console = console.clone();
    let result = form.carry_out_and_show(
        &console,
        async |connection, author, session, NoFields {}| {
            if session.account.totp_secret.is_none() {
                return Err(ConsoleError::Refused("Set up the second factor first.".to_owned()));
            }
            let codes = session.account.replace_recovery_codes(&mut *connection).await?;
            let (before, after) = (json!({ "new_recovery_codes": false }), json!({ "new_recovery_codes": true }));
            session.account.record_change(connection, author, before, after).await?;
            Ok((Done::new("/account", "The recovery codes were replaced."), codes))
        },
        |session, codes| page_console.render(session, "codes.html", context! { codes }),
    );
    result.await
}
