//! One connection to a mail server, and what its refusals mean for an e-mail.

use std::error::Error as _;
use std::path::Path;
use std::time::Duration;

use lettre::Message;
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{AsyncSmtpConnection, Certificate, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail, Rcpt};
use lettre::transport::smtp::extension::{ClientId, Extension, MailParameter};

use super::MailError;
use super::account::SmtpAccount;
use super::outbox::MailedCard;
use crate::config::MailTls;

/// Where TLS comes before the first word.
const IMPLICIT_TLS_PORT: u16 = 465;
/// The mail server has had enough of this connection.
const REPLY_SERVICE_UNAVAILABLE: u16 = 421;
const REASON_LEN_MAX: usize = 250;

/// Why an e-mail didn't go.
#[derive(Debug)]
pub(super) struct DeliveryError {
    pub scope: FailureScope,
    /// For the outbox, the audit row and the log.
    pub reason: String,
}

/// What a trouble says of this e-mail and of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FailureScope {
    /// None gets through at the moment.
    Server,
    /// None goes over this connection; over a new one it may.
    Connection,
    /// This one is refused, but may be accepted later.
    MessageTransient,
    /// This one never will be accepted.
    MessagePermanent,
}

impl FailureScope {
    pub fn with_reason(self, why: impl Into<String>) -> DeliveryError {
        DeliveryError { scope: self, reason: why.into() }
    }
}

impl DeliveryError {
    /// What it is, no longer than anybody reads.
    pub fn truncated_reason(&self) -> String {
        self.reason.chars().take(REASON_LEN_MAX).collect()
    }

    /// A mail server that quotes what it was sent isn't quoted.
    pub fn redact_pins(mut self, cards: &[MailedCard]) -> Self {
        if cards.iter().any(|card| !card.pin.is_empty() && self.reason.contains(&card.pin)) {
            self.reason = "the message was refused, in words that quote it".into();
        }
        self
    }
}

/// How connections are encrypted.
#[derive(Debug)]
pub(super) struct Tls {
    mode: MailTls,
    certificates: Vec<Certificate>,
}

impl Tls {
    /// With the certificates in a file, if one is named, besides the system's.
    pub fn new(when: MailTls, file: &Path) -> Result<Self, MailError> {
        let mut certificates = Vec::new();
        if !file.as_os_str().is_empty() {
            let problem = |problem| MailError::Certificates { path: file.display().to_string(), problem };
            let pem = std::fs::read_to_string(file).map_err(|error| problem(error.to_string()))?;
            if !pem.contains("-----BEGIN CERTIFICATE-----") {
                return Err(problem("there is no certificate in it".into()));
            }
            certificates.push(Certificate::from_pem(pem.as_bytes()).map_err(|error| problem(error.to_string()))?);
        }
        Ok(Self { mode: when, certificates })
    }

    fn parameters(&self, host: &str) -> Result<Option<TlsParameters>, Error> {
        if self.mode == MailTls::Off {
            return Ok(None);
        }
        let builder = TlsParameters::builder(host.to_owned());
        self.certificates
            .iter()
            .cloned()
            .fold(builder, |builder, it| builder.add_root_certificate(it))
            .build()
            .map(Some)
    }
}

/// Ready to take e-mails.
pub(super) struct SmtpConnection {
    smtp: AsyncSmtpConnection,
    timeout: Duration,
    delivered: usize,
}

impl SmtpConnection {
    /// Connects, encrypts and logs in, within the time that a mail server has.
    pub async fn open(account: &SmtpAccount, tls: &Tls, wait: Duration) -> Result<Self, DeliveryError> {
        let smtp = with_timeout(wait, connect_and_login(account, tls))
            .await
            .map_err(|why| FailureScope::Server.with_reason(why))?;
        Ok(Self { smtp: smtp.map_err(|why| FailureScope::Server.with_reason(why))?, timeout: wait, delivered: 0 })
    }

    /// How many e-mails went over it.
    pub fn delivered(&self) -> usize {
        self.delivered
    }

    /// Says from whom and to whom; until the mail server has all of the message nothing has happened.
    pub async fn send_envelope(&mut self, message: &Message) -> Result<(), DeliveryError> {
        with_timeout(self.timeout, send_envelope(&mut self.smtp, message, self.delivered > 0))
            .await
            .map_err(|why| FailureScope::Server.with_reason(why))?
    }

    /// Hands the message over. From here on it may have been accepted, whatever is heard.
    pub async fn deliver(&mut self, message: &Message) -> Result<(), DeliveryError> {
        let message = message.formatted();
        let taken = with_timeout(self.timeout, self.smtp.message(&message))
            .await
            .map_err(|why| FailureScope::Server.with_reason(why))?;
        taken.map_err(|error| classify_error("the message", &error))?;
        self.delivered += 1;
        Ok(())
    }

    /// Takes leave; nobody waits long for an answer.
    pub async fn close(mut self) {
        let _ = with_timeout(Duration::from_secs(1), self.smtp.quit()).await;
    }
}

async fn with_timeout<T>(wait: Duration, work: impl Future<Output = T>) -> Result<T, String> {
    let late = |_| format!("no answer within {}", humantime::format_duration(wait));
    tokio::time::timeout(wait, work).await.map_err(late)
}

async fn connect_and_login(account: &SmtpAccount, tls: &Tls) -> Result<AsyncSmtpConnection, String> {
    let SmtpAccount { host, port, login, sender } = account;
    let at = |step: &'static str| move |error| describe_error(step, &error);
    let hello = ClientId::Domain(sender.email.domain().to_owned());
    let parameters = tls.parameters(host).map_err(at("TLS"))?;
    let (at_once, later) = if *port == IMPLICIT_TLS_PORT { (parameters, None) } else { (None, parameters) };
    let mut smtp = AsyncSmtpConnection::connect_tokio1((host.as_str(), *port), None, &hello, at_once, None)
        .await
        .map_err(at("connecting"))?;
    if let Some(parameters) = later {
        if smtp.can_starttls() {
            smtp.starttls(parameters, &hello).await.map_err(at("STARTTLS"))?;
        } else if tls.mode == MailTls::Required {
            return Err("the mail server offers no STARTTLS, which mail_tls demands".into());
        }
    }
    if let Some((name, password)) = login {
        let credentials = Credentials::new(name.clone(), password.reveal().to_owned());
        smtp.auth(DEFAULT_MECHANISMS, &credentials).await.map_err(|error| match error.status() {
            // In what it says besides a mail server might quote what it was sent.
            Some(code) => format!("AUTH: {code}"),
            None if error.is_client() => describe_error("AUTH", &error),
            None => "AUTH: no proper answer".into(),
        })?;
    }
    Ok(smtp)
}

async fn send_envelope(smtp: &mut AsyncSmtpConnection, message: &Message, used: bool) -> Result<(), DeliveryError> {
    let mut parameters = Vec::new();
    let (from, to) = (message.envelope().from(), message.envelope().to());
    let ascii = from.into_iter().chain(to).all(|address| AsRef::<str>::as_ref(address).is_ascii());
    if !ascii {
        if !smtp.server_info().supports_feature(Extension::SmtpUtfEight) {
            return Err(
                FailureScope::MessagePermanent.with_reason("the mail server takes no address with such letters")
            );
        }
        parameters.push(MailParameter::SmtpUtfEight);
    }
    smtp.command(Mail::new(from.cloned(), parameters)).await.map_err(|error| {
        // The sender is the same for all of them.
        let words = describe_error("MAIL FROM", &error);
        if used { FailureScope::Connection.with_reason(words) } else { FailureScope::Server.with_reason(words) }
    })?;
    for recipient in to {
        let rcpt = smtp.command(Rcpt::new(recipient.clone(), Vec::new())).await;
        rcpt.map_err(|error| classify_error("RCPT TO", &error))?;
    }
    smtp.command(Data).await.map(drop).map_err(|error| classify_error("DATA", &error))
}

/// What a mail server's word on one e-mail says of it.
fn classify_error(step: &'static str, error: &Error) -> DeliveryError {
    let means = match error.status().map(u16::from) {
        Some(REPLY_SERVICE_UNAVAILABLE) | None => FailureScope::Server,
        Some(_) if error.is_permanent() => FailureScope::MessagePermanent,
        Some(_) => FailureScope::MessageTransient,
    };
    means.with_reason(describe_error(step, error))
}

/// One short line for operators.
fn describe_error(step: &str, error: &Error) -> String {
    let said = match (error.status(), error.source()) {
        (Some(code), Some(text)) => format!("{step}: {code} {text}"),
        _ => format!("{step}: {error}"),
    };
    said.chars().map(|char| if char.is_control() { ' ' } else { char }).collect()
}
