//! Forms: every change is a POST with the token of the session and an id of its own.

use std::net::IpAddr;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::response::{IntoResponse, Redirect, Response};
use bigdecimal::BigDecimal;
use secrecy::SecretString;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sqlx::{PgConnection, PgTransaction};

use super::Console;
use super::accounts::Account;
use super::error::ConsoleError;
use super::session::Session;
use crate::auth::attempt_limiter::AttemptKind;
use crate::auth::passwords;
use crate::error::ApiError;
use crate::store::change_log::Author;

/// A hash with which the password of an unknown account is compared.
static OTHER_HASH: LazyLock<SecretString> = LazyLock::new(|| passwords::hash_argon2("").unwrap_or_default().into());

/// The fields that every form has.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Envelope {
    #[serde(default)]
    token: String,
    /// The form's id: 32 hexadecimal digits.
    #[serde(default)]
    once: String,
    /// The password, or the code of the second factor.
    #[serde(default)]
    confirm: String,
}

/// A form of the session, with its fields.
#[derive(Debug)]
pub struct Form<T> {
    /// The fields.
    pub fields: T,
    /// Who sends it.
    pub session: Session,
    once: String,
    /// A code of the second factor, or the password.
    confirm: String,
    must_confirm: bool,
}

/// A form whose sender enters a code of the second factor again, or the password without one. The methods of [`Form`]
/// check it.
#[derive(Debug)]
pub struct ConfirmedForm<T>(pub Form<T>);

/// The outcome of a change, which follows the form.
#[derive(Debug)]
pub struct Done {
    /// The path of the page to show.
    pub location: String,
    /// What was done, in words, without secrets: it is stored.
    pub message: String,
    /// The change of money on a card, which counts against `console_support_max`: card, and amount in the system's
    /// currency without tax.
    pub card_amount: Option<(i64, BigDecimal)>,
}

impl Done {
    /// The outcome of a change that moves no money.
    pub fn new(location: impl Into<String>, message: impl Into<String>) -> Self {
        Self { location: location.into(), message: message.into(), card_amount: None }
    }
}

impl<T: DeserializeOwned> FromRequest<Arc<Console>> for Form<T> {
    type Rejection = ConsoleError;

    async fn from_request(request: Request, console: &Arc<Console>) -> Result<Self, ConsoleError> {
        let (mut parts, body) = request.into_parts();
        let session = Session::from_request_parts(&mut parts, console).await?;
        let body = Bytes::from_request(Request::from_parts(parts, body), console).await;
        let body = body.map_err(|error| ConsoleError::Malformed(error.body_text()))?;
        let envelope = parse(&body)?;
        Self::new(session, envelope, parse(&body)?)
    }
}

impl<T: DeserializeOwned> FromRequest<Arc<Console>> for ConfirmedForm<T> {
    type Rejection = ConsoleError;

    async fn from_request(request: Request, console: &Arc<Console>) -> Result<Self, ConsoleError> {
        let mut form = Form::<T>::from_request(request, console).await?;
        form.must_confirm = true;
        Ok(Self(form))
    }
}

fn parse<T: DeserializeOwned>(body: &Bytes) -> Result<T, ConsoleError> {
    serde_urlencoded::from_bytes(body).map_err(|error| ConsoleError::Malformed(error.to_string()))
}

impl<T> Form<T> {
    /// Checks the token and the id.
    pub(super) fn new(session: Session, envelope: Envelope, fields: T) -> Result<Self, ConsoleError> {
        let Envelope { token, once, confirm } = envelope;
        let is_own: bool = subtle::ConstantTimeEq::ct_eq(token.as_bytes(), session.form_token.as_bytes()).into();
        let is_id = once.len() == 32 && once.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_own || !is_id {
            return Err(ConsoleError::ForeignForm);
        }
        Ok(Self { fields, session, once, confirm, must_confirm: false })
    }

    /// Makes the change in one transaction, unless the form was carried out before, and shows the page that follows.
    ///
    /// # Errors
    ///
    /// What `change` returns, and database errors. Nothing was changed then.
    pub async fn carry_out(
        self,
        console: &Console,
        change: impl AsyncFnOnce(&mut PgConnection, &Author, &Session, T) -> Result<Done, ConsoleError>,
    ) -> Result<Response, ConsoleError> {
        let mut transaction = match self.begin(console).await? {
            Begun::New(transaction) => transaction,
            Begun::CarriedOut(response) => return Ok(response),
        };
        let Self { fields, session, once, .. } = self;
        let done = change(&mut transaction, &session.author(), &session, fields).await?;
        finish(transaction, &done, &once).await?;
        Ok(redirect(&done.location, &once))
    }

    /// Like [`carry_out`](Self::carry_out), for a change whose result is shown only this once, such as a key. If the
    /// form was carried out before, the page of [`Done`] says so.
    ///
    /// # Errors
    ///
    /// As `carry_out`.
    pub async fn carry_out_and_show<S>(
        self,
        console: &Console,
        change: impl AsyncFnOnce(&mut PgConnection, &Author, &Session, T) -> Result<(Done, S), ConsoleError>,
        show: impl FnOnce(&Session, S) -> Result<Response, ConsoleError>,
    ) -> Result<Response, ConsoleError> {
        let mut transaction = match self.begin(console).await? {
            Begun::New(transaction) => transaction,
            Begun::CarriedOut(response) => return Ok(response),
        };
        let Self { fields, session, once, .. } = self;
        let (done, secret) = change(&mut transaction, &session.author(), &session, fields).await?;
        finish(transaction, &done, &once).await?;
        show(&session, secret)
    }

    /// Checks what the sender has entered again, for a form that changes nothing, such as an export.
    ///
    /// # Errors
    ///
    /// [`ConsoleError::Refused`] if it is wrong, [`ConsoleError::TooManyAttempts`], database errors.
    pub async fn confirm(&self, console: &Console) -> Result<(), ConsoleError> {
        if !self.must_confirm {
            return Ok(());
        }
        let (session, confirm, account) = (&self.session, &self.confirm, &self.session.account);
        self.limit_attempts(console)?;
        let is_correct = match account.totp_secret {
            Some(_) => account.spend_code(&mut *console.pool.acquire().await?, confirm).await?,
            None => is_password(console, Some(account), confirm).await?,
        };
        if is_correct {
            return Ok(());
        }
        record_failure(console, session.client, &account.name);
        Err(ConsoleError::Refused(match account.totp_secret {
            Some(_) => "The code is wrong, or it was used already. Wait for the next one.".to_owned(),
            None => "The password is wrong.".to_owned(),
        }))
    }

    /// Checks the account's password, which a change of it demands.
    ///
    /// # Errors
    ///
    /// As [`confirm`](Self::confirm).
    pub async fn confirm_password(&self, console: &Console, password: &str) -> Result<(), ConsoleError> {
        self.limit_attempts(console)?;
        if is_password(console, Some(&self.session.account), password).await? {
            return Ok(());
        }
        record_failure(console, self.session.client, &self.session.account.name);
        Err(ConsoleError::Refused("The password is wrong.".to_owned()))
    }

    /// Refuses if the client has sent too many wrong passwords or codes.
    ///
    /// # Errors
    ///
    /// [`ConsoleError::TooManyAttempts`].
    pub fn limit_attempts(&self, console: &Console) -> Result<(), ConsoleError> {
        limit_attempts(console, self.session.client, &self.session.account.name)
    }

    /// Claims the id of the form, then checks what the sender has entered again: the second request of a double click
    /// waits for the end of the first one, and does not need a code of its own.
    async fn begin(&self, console: &Console) -> Result<Begun, ConsoleError> {
        let Self { session, once, .. } = self;
        let mut transaction = console.pool.begin().await?;
        let claimed = sqlx::query!(
            "insert into console_submissions (id, account_id) values ($1, $2) on conflict do nothing",
            once,
            session.account.id
        );
        if claimed.execute(&mut *transaction).await?.rows_affected() == 1 {
            self.confirm(console).await?;
            return Ok(Begun::New(transaction));
        }
        let location = sqlx::query_scalar!(
            "select location from console_submissions where id = $1 and account_id = $2",
            once,
            session.account.id
        );
        let location = location.fetch_optional(&mut *transaction).await?.ok_or(ConsoleError::ForeignForm)?;
        Ok(Begun::CarriedOut(redirect(&location, once)))
    }
}

/// The state of a form at the beginning of its transaction.
enum Begun {
    New(PgTransaction<'static>),
    /// With the page that follows.
    CarriedOut(Response),
}

async fn finish(mut transaction: PgTransaction<'static>, done: &Done, once: &str) -> Result<(), ConsoleError> {
    let (card_id, amount) = done.card_amount.clone().unzip();
    sqlx::query!(
        "update console_submissions set location = $2, message = $3, card_id = $4, amount = $5 where id = $1",
        once,
        done.location,
        done.message,
        card_id,
        amount
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(())
}

/// Shows the page, with the message of the form.
fn redirect(location: &str, once: &str) -> Response {
    let separator = if location.contains('?') { '&' } else { '?' };
    Redirect::to(&format!("{location}{separator}done={once}")).into_response()
}

/// Returns the message of a form that the account has sent.
pub(super) async fn load_message(console: &Console, account_id: i64, once: &str) -> sqlx::Result<Option<String>> {
    let message = sqlx::query_scalar!(
        "select message from console_submissions where id = $1 and account_id = $2",
        once,
        account_id
    );
    message.fetch_optional(&console.pool).await
}

/// Refuses if the client has sent too many wrong passwords or codes for the account.
pub(super) fn limit_attempts(console: &Console, client: IpAddr, name: &str) -> Result<(), ConsoleError> {
    match console.app.attempts.check(AttemptKind::Console, client, name, Instant::now()) {
        Err(ApiError::TooManyAttempts(seconds)) => Err(ConsoleError::TooManyAttempts(seconds)),
        _ => Ok(()),
    }
}

/// Counts a wrong password or code.
pub(super) fn record_failure(console: &Console, client: IpAddr, name: &str) {
    if console.app.attempts.record_failure(AttemptKind::Console, client, name, Instant::now()) {
        tracing::warn!(%client, account = name, "console locked for this client: too many wrong passwords or codes");
    }
}

/// Whether the password is the account's. Without an account the check takes the same time.
pub(super) async fn is_password(
    console: &Console,
    account: Option<&Account>,
    password: &str,
) -> Result<bool, ConsoleError> {
    let _permit = console.password_checks.acquire().await;
    let hash = account.map_or_else(|| OTHER_HASH.clone(), |account| account.password_argon2.clone());
    let password = password.to_owned();
    let check = tokio::task::spawn_blocking(move || passwords::is_argon2(&hash, &password));
    check.await.map_err(|error| ConsoleError::Failed(error.to_string()))
}

impl Console {
    /// Hashes a new password of an account.
    ///
    /// # Errors
    ///
    /// [`ConsoleError::Failed`].
    pub async fn hash_password(&self, password: String) -> Result<String, ConsoleError> {
        let _permit = self.password_checks.acquire().await;
        let hash = tokio::task::spawn_blocking(move || passwords::hash_argon2(&password)).await;
        hash.ok().flatten().ok_or_else(|| ConsoleError::Failed("cannot hash the password".to_owned()))
    }
}
