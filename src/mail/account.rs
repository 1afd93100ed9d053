//! Whose mail server, and in whose name: MOR's settings in `conflines`, per owner.

use lettre::Address;
use lettre::message::Mailbox;

use crate::accounts::{Directory, Setting, Settings};
use crate::config::Secret;
use crate::number;

/// RFC 5321's longest path, without its brackets.
const LONGEST_ADDRESS: usize = 254;
const USUAL_PORT: u16 = 25;

/// What an owner's e-mails are sent with.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub host: String,
    pub port: u16,
    /// Name and password.
    pub login: Option<(String, Secret)>,
    pub sender: Mailbox,
}

/// Why an owner's e-mails can't be sent at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum Unusable {
    #[error("Email_Sending_Enabled isn't 1")]
    Off,
    #[error("Email_Smtp_Server isn't set")]
    NoServer,
    #[error("Email_port is no port")]
    BadPort,
    #[error("neither Email_from nor Company_Email is an address")]
    NoSender,
}

impl Account {
    /// The owner's. What a reseller has not set is owner 0's, the mail server with its login as a whole: nobody's password goes to
    /// somebody else's server.
    pub async fn of(owner: i32, directory: &Directory) -> sqlx::Result<Result<Self, Unusable>> {
        Ok(Self::read(&*directory.settings(owner).await?, &*directory.settings(0).await?))
    }

    fn read(own: &Settings, system: &Settings) -> Result<Self, Unusable> {
        let enabled = [own, system].into_iter().find_map(|whose| whose.text(Setting::EmailSendingEnabled));
        if enabled.is_none_or(|value| number::integer(value) != 1) {
            return Err(Unusable::Off);
        }
        let server = if own.text(Setting::EmailSmtpServer).is_some() { own } else { system };
        let host = server.text(Setting::EmailSmtpServer).map(str::trim).ok_or(Unusable::NoServer)?.to_owned();
        let port = match server.text(Setting::EmailPort) {
            None => USUAL_PORT,
            Some(port) => port.trim().parse().map_err(|_| Unusable::BadPort)?,
        };
        let login = server.text(Setting::EmailLogin).map(|login| {
            let password = server.text(Setting::EmailPassword).unwrap_or_default();
            (login.to_owned(), password.to_owned().into())
        });
        let senders =
            [own, system].map(|whose| whose.text(Setting::EmailFrom).or_else(|| whose.text(Setting::CompanyEmail)));
        let sender = senders.into_iter().flatten().next().ok_or(Unusable::NoSender)?;
        let sender = sender.trim().parse().map_err(|_| Unusable::NoSender)?;
        Ok(Self { host, port, login, sender })
    }
}

/// An e-mail that a sale puts into the outbox.
#[derive(Debug)]
pub struct Posting {
    /// What stands behind the @ of its id.
    pub domain: String,
    /// Why it has failed already, in the words of the audit row.
    pub problem: Option<&'static str>,
}

impl Posting {
    /// To that address, for cards of that owner's. `None`: the owner doesn't send any.
    pub async fn to(address: &str, directory: &Directory, owner: i32) -> sqlx::Result<Option<Self>> {
        let failed = |problem| Self { domain: "localhost".into(), problem: Some(problem) };
        Ok(match Account::of(owner, directory).await? {
            Err(Unusable::Off) => None,
            Err(unusable) => {
                tracing::warn!(owner, "an e-mail can't be sent: {unusable}");
                Some(failed("Invalid Emails configuration"))
            }
            Ok(_) if recipient(address).is_none() => Some(failed("Invalid email address")),
            Ok(account) => Some(Self { domain: account.sender.email.domain().to_owned(), problem: None }),
        })
    }
}

/// The one address that a client's text is, if it is one.
pub(super) fn recipient(text: &str) -> Option<Address> {
    let text = text.trim();
    let sound = text.len() <= LONGEST_ADDRESS && !text.chars().any(|char| char.is_control() || char.is_whitespace());
    text.parse().ok().filter(|_| sound)
}
