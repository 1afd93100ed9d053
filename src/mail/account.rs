//! Whose mail server, and in whose name: MOR's settings in `conflines`, per owner.

use lettre::Address;
use lettre::message::Mailbox;

use crate::accounts::{AccountCache, Setting, Settings};
use crate::config::Secret;
use crate::number;

/// RFC 5321's longest path, without its brackets.
const ADDRESS_LEN_MAX: usize = 254;
const PORT_DEFAULT: u16 = 25;

/// What an owner's e-mails are sent with.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SmtpAccount {
    pub host: String,
    pub port: u16,
    /// Name and password.
    pub login: Option<(String, Secret)>,
    pub sender: Mailbox,
}

/// Why an owner's e-mails can't be sent at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum SmtpAccountError {
    #[error("Email_Sending_Enabled isn't 1")]
    Disabled,
    #[error("Email_Smtp_Server isn't set")]
    NoServer,
    #[error("Email_port is no port")]
    BadPort,
    #[error("neither Email_from nor Company_Email is an address")]
    NoSender,
}

impl SmtpAccount {
    /// The owner's. What a reseller has not set is owner 0's, the mail server with its login as a whole: nobody's password goes to
    /// somebody else's server.
    pub async fn load(owner: i32, directory: &AccountCache) -> sqlx::Result<Result<Self, SmtpAccountError>> {
        Ok(Self::from_settings(&*directory.settings(owner).await?, &*directory.settings(0).await?))
    }

    fn from_settings(own: &Settings, system: &Settings) -> Result<Self, SmtpAccountError> {
        let enabled = [own, system].into_iter().find_map(|whose| whose.text(Setting::EmailSendingEnabled));
        if enabled.is_none_or(|value| number::parse_integer(value) != 1) {
            return Err(SmtpAccountError::Disabled);
        }
        let server = if own.text(Setting::EmailSmtpServer).is_some() { own } else { system };
        let host = server.text(Setting::EmailSmtpServer).map(str::trim).ok_or(SmtpAccountError::NoServer)?.to_owned();
        let port = match server.text(Setting::EmailPort) {
            None => PORT_DEFAULT,
            Some(port) => port.trim().parse().map_err(|_| SmtpAccountError::BadPort)?,
        };
        let login = server.text(Setting::EmailLogin).map(|login| {
            let password = server.text(Setting::EmailPassword).unwrap_or_default();
            (login.to_owned(), password.to_owned().into())
        });
        let senders =
            [own, system].map(|whose| whose.text(Setting::EmailFrom).or_else(|| whose.text(Setting::CompanyEmail)));
        let sender = senders.into_iter().flatten().next().ok_or(SmtpAccountError::NoSender)?;
        let sender = sender.trim().parse().map_err(|_| SmtpAccountError::NoSender)?;
        Ok(Self { host, port, login, sender })
    }
}

/// An e-mail that a sale puts into the outbox.
#[derive(Debug)]
pub struct OutboxEntry {
    /// What stands behind the @ of its id.
    pub message_id_domain: String,
    /// Why it has failed already, in the words of the audit row.
    pub initial_error: Option<&'static str>,
}

impl OutboxEntry {
    /// To that address, for cards of that owner's. `None`: the owner doesn't send any.
    pub async fn prepare(address: &str, directory: &AccountCache, owner: i32) -> sqlx::Result<Option<Self>> {
        let failed = |problem| Self { message_id_domain: "localhost".into(), initial_error: Some(problem) };
        Ok(match SmtpAccount::load(owner, directory).await? {
            Err(SmtpAccountError::Disabled) => None,
            Err(unusable) => {
                tracing::warn!(owner, "an e-mail can't be sent: {unusable}");
                Some(failed("Invalid Emails configuration"))
            }
            Ok(_) if parse_recipient(address).is_none() => Some(failed("Invalid email address")),
            Ok(account) => {
                Some(Self { message_id_domain: account.sender.email.domain().to_owned(), initial_error: None })
            }
        })
    }
}

/// The one address that a client's text is, if it is one.
pub(super) fn parse_recipient(text: &str) -> Option<Address> {
    let text = text.trim();
    let sound = text.len() <= ADDRESS_LEN_MAX && !text.chars().any(|char| char.is_control() || char.is_whitespace());
    text.parse().ok().filter(|_| sound)
}
