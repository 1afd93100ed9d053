//! A test e-mail: it shows whether the mail settings of an owner work, without a sale.

use lettre::Message;
use lettre::message::Mailbox;

use super::account::{SmtpAccount, parse_recipient};
use super::smtp::{DeliveryError, SmtpConnection};
use super::{Mailer, SmtpAccountError};
use crate::accounts::AccountCache;

const SUBJECT: &str = "Test e-mail of Mortise";
const TEXT: &str = "This is a test e-mail. The mail settings work: buyers get their e-mails in the same way.\n";

/// A test e-mail that the mail server accepted.
#[derive(Debug)]
#[expect(missing_docs, reason = "self-explanatory names")]
pub struct TestResult {
    pub server: String,
    pub port: u16,
    pub sender: String,
}

/// Why a test e-mail was not sent.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "described by the error messages")]
pub enum TestError {
    #[error("{0:?} is not an e-mail address")]
    InvalidAddress(String),
    #[error("the mail settings are incomplete: {0}")]
    Settings(SmtpAccountError),
    #[error("{server}:{port} did not accept the e-mail: {reason}")]
    NotAccepted { server: String, port: u16, reason: String },
    #[error("database error: {0}")]
    Database(#[from] sqlx::Error),
}

impl Mailer {
    /// Sends a test e-mail with the mail settings of `owner`, in the same way as e-mails to buyers.
    ///
    /// # Errors
    ///
    /// [`TestError`], with the step that failed and the mail server's reply.
    pub async fn send_test(&self, accounts: &AccountCache, owner: i32, address: &str) -> Result<TestResult, TestError> {
        let invalid = || TestError::InvalidAddress(address.to_owned());
        let to = parse_recipient(address).ok_or_else(invalid)?;
        let account = SmtpAccount::load(owner, accounts).await?.map_err(TestError::Settings)?;
        let message = Message::builder()
            .from(account.sender.clone())
            .to(Mailbox::new(None, to))
            .subject(SUBJECT)
            .message_id(None)
            .body(TEXT.to_owned())
            .map_err(|_| invalid())?;
        let (server, port) = (account.host.clone(), account.port);
        let deliver = async {
            let mut connection = SmtpConnection::open(&account, &self.tls, self.timeout).await?;
            connection.send_envelope(&message).await?;
            connection.deliver(&message).await?;
            connection.close().await;
            Ok::<(), DeliveryError>(())
        };
        match deliver.await {
            Ok(()) => Ok(TestResult { server, port, sender: account.sender.to_string() }),
            Err(error) => Err(TestError::NotAccepted { server, port, reason: error.truncated_reason() }),
        }
    }
}
