//! Makes the change of a form once: a double click, or a form that is sent again, shows the page of the first one.

use axum::response::{IntoResponse, Redirect, Response};
use bigdecimal::BigDecimal;
use secrecy::ExposeSecret;
use sqlx::{PgConnection, PgTransaction};
use tokio::sync::OwnedSemaphorePermit;

use super::Console;
use super::attempts::Attempt;
use super::error::ConsoleError;
use super::form::{Demanded, Form};
use super::session::Session;
use crate::store::change_log::Author;

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

impl<T> Form<T> {
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
        let (mut transaction, _permit) = match self.begin(console).await? {
            Begun::New(transaction, permit) => (transaction, permit),
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
        let (mut transaction, _permit) = match self.begin(console).await? {
            Begun::New(transaction, permit) => (transaction, permit),
            Begun::CarriedOut(response) => return Ok(response),
        };
        let Self { fields, session, once, .. } = self;
        let (done, secret) = change(&mut transaction, &session.author(), &session, fields).await?;
        finish(transaction, &done, &once).await?;
        show(&session, secret).map_err(|error| ConsoleError::OutcomeUnknown(Box::new(error)))
    }

    /// Like [`carry_out`](Self::carry_out), for work that changes nothing in the database and can take long, such as an
    /// e-mail: it has no transaction. The second request of a double click waits for the first one, and does not repeat
    /// the work. After a crash between the work and its record, the form can be sent again, and repeats the work.
    ///
    /// # Errors
    ///
    /// What `work` returns, and database errors.
    pub async fn carry_out_without_transaction(
        self,
        console: &Console,
        work: impl AsyncFnOnce(T) -> Result<Done, ConsoleError>,
    ) -> Result<Response, ConsoleError> {
        let Self { fields, session, once, .. } = self;
        let _permit = console.forms.acquire(once.clone()).await;
        let account_id = session.account.id;
        if let Some(location) = find_location(&mut *console.pool.acquire().await?, account_id, &once).await? {
            return Ok(redirect(&location, &once));
        }
        let done = work(fields).await?;
        let mut transaction = console.pool.begin().await?;
        if !claim(&mut transaction, account_id, &once).await? {
            return Err(ConsoleError::ForeignForm);
        }
        finish(transaction, &done, &once).await?;
        Ok(redirect(&done.location, &once))
    }

    /// Checks what the sender has entered again, for a form that changes nothing, such as an export.
    ///
    /// # Errors
    ///
    /// [`ConsoleError::Refused`] if it is wrong, [`ConsoleError::TooManyAttempts`], database errors.
    pub async fn confirm(&self, console: &Console) -> Result<(), ConsoleError> {
        match self.begin_attempt(console).await? {
            Some(attempt) => self.check_confirmation(console, attempt).await,
            None => Ok(()),
        }
    }

    /// Waits until the password or the code may be checked. `None`: none is demanded.
    async fn begin_attempt<'a>(&'a self, console: &'a Console) -> Result<Option<Attempt<'a>>, ConsoleError> {
        match self.demanded {
            Demanded::Nothing => Ok(None),
            Demanded::Password | Demanded::Factor | Demanded::NewFactor => {
                console.attempts.begin(self.session.client, &self.session.account.name).await.map(Some)
            }
        }
    }

    async fn check_confirmation(&self, console: &Console, mut attempt: Attempt<'_>) -> Result<(), ConsoleError> {
        let account = &self.session.account;
        let entered = self.confirm.expose_secret();
        let (is_correct, message) = match self.demanded {
            Demanded::NewFactor => (
                attempt.check_first_code(&console.pool, &self.session, entered).await?,
                "The code is wrong, or the 15 minutes are over. Check the clock of your phone, or start again.",
            ),
            Demanded::Factor if account.totp_secret.is_some() => (
                attempt.check_code(&console.pool, account, entered).await?,
                "The code is wrong, or it was used already. Wait for the next one.",
            ),
            _ => (attempt.check_password(Some(account), entered).await?, "The password is wrong."),
        };
        if is_correct { Ok(()) } else { Err(ConsoleError::Refused(message.to_owned())) }
    }

    /// Claims the id of the form, then checks what the sender has entered again: the second request of a double click
    /// waits for the end of the first one, and does not need a code of its own.
    async fn begin(&self, console: &Console) -> Result<Begun, ConsoleError> {
        let Self { session, once, .. } = self;
        let permit = console.forms.acquire(once.clone()).await;
        // Before the transaction: at most one form holds a connection while it waits for another one.
        let attempt = self.begin_attempt(console).await?;
        let mut transaction = console.pool.begin().await?;
        if claim(&mut transaction, session.account.id, once).await? {
            if let Some(attempt) = attempt {
                self.check_confirmation(console, attempt).await?;
            }
            return Ok(Begun::New(transaction, permit));
        }
        let location = find_location(&mut transaction, session.account.id, once).await?;
        let location = location.ok_or(ConsoleError::ForeignForm)?;
        Ok(Begun::CarriedOut(redirect(&location, once)))
    }
}

/// The state of a form at the beginning of its transaction.
enum Begun {
    /// With the permit of the form's id.
    New(PgTransaction<'static>, OwnedSemaphorePermit),
    /// With the page that follows.
    CarriedOut(Response),
}

/// Claims the id of a form. `false`: it was claimed before.
async fn claim(connection: &mut PgConnection, account_id: i64, once: &str) -> sqlx::Result<bool> {
    let claimed = sqlx::query!(
        "insert into console_submissions (id, account_id) values ($1, $2) on conflict do nothing",
        once,
        account_id
    );
    Ok(claimed.execute(connection).await?.rows_affected() == 1)
}

/// Returns the page that follows a form that was carried out before.
///
/// # Errors
///
/// [`ConsoleError::ForeignForm`] if another account has sent it; database errors.
async fn find_location(
    connection: &mut PgConnection,
    account_id: i64,
    once: &str,
) -> Result<Option<String>, ConsoleError> {
    let submission = sqlx::query!("select account_id, location from console_submissions where id = $1", once);
    match submission.fetch_optional(connection).await? {
        Some(submission) if submission.account_id != account_id => Err(ConsoleError::ForeignForm),
        submission => Ok(submission.map(|submission| submission.location)),
    }
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
    transaction.commit().await.map_err(|error| ConsoleError::OutcomeUnknown(Box::new(error.into())))
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
