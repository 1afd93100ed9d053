//! The mail server, login and sender of each owner, from MOR's settings in `conflines`.

use std::net::IpAddr;

use lettre::Address;
use lettre::message::Mailbox;
use lettre::transport::smtp::authentication::Credentials;
use serde::Serialize;

use crate::accounts::{AccountCache, Setting, Settings};
use crate::input;
use crate::number;

/// Maximum length of an address in bytes: the longest path in RFC 5321, without its angle brackets.
const ADDRESS_LEN_MAX: usize = 254;
const PORT_DEFAULT: u16 = 25;

/// The mail server, login and sender for the e-mails of one owner.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SmtpAccount {
    pub host: String,
    pub port: u16,
    pub login: Option<Credentials>,
    pub sender: Mailbox,
}

/// The reason for which the mail settings of an owner are unusable. The texts are stored in the outbox and in audit
/// rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "described by the error messages")]
pub enum SmtpAccountError {
    #[error("Email_Sending_Enabled isn't 1")]
    Disabled,
    #[error("Email_Smtp_Server isn't set")]
    NoServer,
    #[error("Email_port is not a port number")]
    BadPort,
    #[error("neither Email_from nor Company_Email is an address")]
    NoSender,
}

impl SmtpAccount {
    /// Loads the settings of an owner. Settings that a reseller has not set are taken from owner 0. The mail server and
    /// its login are taken from the same owner, so that a password is never sent to the mail server of another owner.
    pub async fn load(owner: i32, accounts: &AccountCache) -> sqlx::Result<Result<Self, SmtpAccountError>> {
        Ok(Self::from_settings(&*accounts.settings(owner).await?, &*accounts.settings(0).await?))
    }

    fn from_settings(own: &Settings, system: &Settings) -> Result<Self, SmtpAccountError> {
        let enabled = [own, system].into_iter().find_map(|settings| settings.text(Setting::EmailSendingEnabled));
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
            Credentials::new(login.to_owned(), password.to_owned())
        });
        let senders = [own, system]
            .map(|settings| settings.text(Setting::EmailFrom).or_else(|| settings.text(Setting::CompanyEmail)));
        let sender = senders.into_iter().flatten().next().ok_or(SmtpAccountError::NoSender)?;
        let sender = sender.trim().parse().map_err(|_| SmtpAccountError::NoSender)?;
        Ok(Self { host, port, login, sender })
    }
}

/// An e-mail that a sale writes into the outbox. `order_rows.sql` reads the fields by their names.
#[derive(Debug, Serialize)]
pub struct OutboxEntry {
    /// The part of the Message-ID after the `@`.
    pub message_id_domain: String,
    /// The reason for which the e-mail can never be sent: the text of the audit row. `None` if it is to be sent.
    pub initial_error: Option<&'static str>,
}

impl OutboxEntry {
    /// Prepares an e-mail to `address` for cards of `owner`. Returns `None` if the owner has disabled e-mails.
    pub async fn prepare(address: &str, accounts: &AccountCache, owner: i32) -> sqlx::Result<Option<Self>> {
        let failed = |error| Self { message_id_domain: "localhost".into(), initial_error: Some(error) };
        Ok(match SmtpAccount::load(owner, accounts).await? {
            Err(SmtpAccountError::Disabled) => None,
            Err(error) => {
                tracing::warn!(owner, %error, "invalid mail settings, e-mail not sent");
                Some(failed("Invalid Emails configuration"))
            }
            Ok(_) if parse_recipient(address).is_none() => Some(failed("Invalid email address")),
            Ok(account) => {
                Some(Self { message_id_domain: account.sender.email.domain().to_owned(), initial_error: None })
            }
        })
    }
}

/// Whether the text is a sender of e-mails: an address, also with a name.
pub fn is_sender(text: &str) -> bool {
    text.trim().parse::<Mailbox>().is_ok()
}

/// Whether e-mails can be sent to this text: it is exactly one address with a domain name.
pub fn is_address(text: &str) -> bool {
    parse_recipient(text).is_some()
}

/// Parses the address that a client sent. Returns `None` unless it is exactly one valid address with a domain name: an
/// IP address, as in `a@[127.0.0.1]`, is none.
pub(super) fn parse_recipient(text: &str) -> Option<Address> {
    let text = text.trim();
    let is_single_address =
        text.len() <= ADDRESS_LEN_MAX && !text.contains(' ') && input::find_invisible(text).is_none();
    let address: Address = text.parse().ok().filter(|_| is_single_address)?;
    let has_ip = address.domain().trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    // The message contains the address as a header, whose syntax is narrower. Without this check each attempt to build
    // the message would fail, until `mail_hours` are over.
    let is_header = Mailbox::new(None, address.clone()).to_string().parse::<Mailbox>().is_ok();
    (!has_ip && is_header).then_some(address)
}
