//! `/mail`: the outbox of e-mails to buyers. PINs are not shown: the e-mails contain them only while they are sent.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use minijinja::context;
use serde::Deserialize;

use super::{next_of, rows_to_read};
use crate::back_office::mails::{self, MailState, Retry};
use crate::back_office::users::{self, ADMIN_ID};
use crate::console::Console;
use crate::console::access::{Access, Role};
use crate::console::error::ConsoleError;
use crate::console::form::{Form, NoFields};
use crate::console::render::{PageResult, to_value};
use crate::console::route::Route;
use crate::console::session::Session;
use crate::console::submission::Done;
use crate::mail::TestError;

/// E-mails on a page.
const ROWS: usize = 50;
/// Maximum time for a test e-mail.
const TEST_TIMEOUT: Duration = Duration::from_secs(45);

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/mail", Access::MAIL, show),
        Route::post("/mail/retry", Access::ADMIN_SUPPORT, retry_all),
        Route::post("/mail/{id}/retry", Access::ADMIN_SUPPORT, retry),
        Route::post("/mail/{id}/correct", Access::ADMIN_SUPPORT, correct),
        Route::post("/mail/test", Access::ADMIN_SUPPORT, send_test),
    ]
}

#[derive(Debug, Deserialize)]
struct ListQuery {
    #[serde(default)]
    state: MailState,
    after: Option<i64>,
}

async fn show(
    State(console): State<Arc<Console>>,
    session: Session,
    Query(ListQuery { state, after }): Query<ListQuery>,
) -> PageResult {
    let mut mails = mails::page(&console.pool, state, after, rows_to_read(ROWS)).await?;
    let next = next_of(&mut mails, ROWS).map(|mail| mail.id);
    let may_change = session.account.role != Role::ReadOnly;
    let values = context! { state => state.name(), mails => to_value(mails), next, after, may_change, may_correct => may_correct(&session) };
    console.render(&session, "mail.html", values)
}

#[derive(Debug, Deserialize)]
struct RetryFields {
    /// Which e-mails: those that wait, or those that have failed.
    state: MailState,
}

async fn retry_all(State(console): State<Arc<Console>>, form: Form<RetryFields>) -> PageResult {
    form.carry_out(&console, async |connection, author, _, RetryFields { state }| {
        let which = match state {
            MailState::Waiting => Retry::Waiting,
            MailState::Failed => Retry::Failed,
            MailState::Sent => {
                return Err(ConsoleError::Refused("E-mails that were sent are not sent again from here.".to_owned()));
            }
        };
        let count = mails::retry(connection, &which, author).await?;
        let message = format!(
            "E-mails to send now: {count}. The server sends them within a second, if Email_Sending_Enabled is on."
        );
        Ok(Done::new(format!("/mail?state={}", state.name()), message))
    })
    .await
}

async fn retry(State(console): State<Arc<Console>>, Path(id): Path<i64>, form: Form<NoFields>) -> PageResult {
    form.carry_out(&console, async |connection, author, _, NoFields {}| {
        mails::retry(connection, &Retry::Ids { ids: &[id], sent_too: false }, author).await?;
        Ok(Done::new("/mail", format!("The server sends the e-mail {id} within a second.")))
    })
    .await
}

#[derive(Debug, Deserialize)]
struct CorrectFields {
    address: String,
}

/// Whether the account may send the PINs of an e-mail to another address.
fn may_correct(session: &Session) -> bool {
    session.account.role == Role::Admin || session.may_reveal_pins()
}

async fn correct(State(console): State<Arc<Console>>, Path(id): Path<i64>, form: Form<CorrectFields>) -> PageResult {
    if !may_correct(&form.session) {
        let message = "The e-mail has PINs, and your account may not show PINs. Ask an admin to correct the address.";
        return Err(ConsoleError::Forbidden(message.to_owned()));
    }
    form.carry_out(&console, async |connection, author, _, CorrectFields { address }| {
        let address = address.trim();
        let before = mails::correct(connection, id, address, author).await?;
        let message = format!("The e-mail {id} is sent to {address} now (it was for {before}).");
        Ok(Done::new("/mail", message))
    })
    .await
}

#[derive(Debug, Deserialize)]
struct TestFields {
    address: String,
    /// The reseller whose mail settings are tested. Empty: the admin.
    #[serde(default)]
    owner: String,
}

/// Sends the e-mail, without a transaction: the mail server can take long.
async fn send_test(State(console): State<Arc<Console>>, form: Form<TestFields>) -> PageResult {
    form.carry_out_without_transaction(&console, async |TestFields { address, owner }| {
        let owner = match owner.trim() {
            "" => ADMIN_ID,
            name => users::find(&mut *console.pool.acquire().await?, name).await?.settings_owner()?,
        };
        let address = address.trim();
        let send = console.app.mail.send_test(&console.app.accounts, owner, address);
        let sent = tokio::time::timeout(TEST_TIMEOUT, send).await.map_err(|_| {
            let seconds = TEST_TIMEOUT.as_secs();
            ConsoleError::Refused(format!("The mail server did not accept the e-mail within {seconds} seconds."))
        })?;
        let sent = sent.map_err(|error| match error {
            TestError::Database(error) => ConsoleError::Database(error),
            error => ConsoleError::Refused(format!("{error}.")),
        })?;
        let message =
            format!("{}:{} accepted the test e-mail from {} to {address}.", sent.server, sent.port, sent.sender);
        Ok(Done::new("/mail", message))
    })
    .await
}
