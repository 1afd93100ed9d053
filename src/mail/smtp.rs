//! A connection to a mail server, and the classification of its errors.

use std::error::Error as _;
use std::io;
use std::path::Path;
use std::time::Duration;

use lettre::Message;
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::DEFAULT_MECHANISMS;
#[expect(deprecated, reason = "the only way to TLS from the first byte over a given stream")]
use lettre::transport::smtp::client::AsyncNetworkStream;
use lettre::transport::smtp::client::{AsyncSmtpConnection, AsyncTokioStream, Certificate, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail, Rcpt};
use lettre::transport::smtp::extension::{ClientId, Extension, MailParameter};
use tokio::net::TcpStream;
use tokio_util::compat::FuturesAsyncReadCompatExt;

use super::MailError;
use super::account::SmtpAccount;
use super::outbox::MailedCard;
use super::reply_limiter::ReplyLimiter;
use crate::config::MailTls;
use crate::input;

/// The port on which a connection starts with TLS (SMTPS).
const IMPLICIT_TLS_PORT: u16 = 465;
/// SMTP reply 421: the mail server closes the connection.
const REPLY_SERVICE_UNAVAILABLE: u16 = 421;
/// Maximum length of a stored reason, in characters.
const REASON_LEN_MAX: usize = 250;

/// The error with which an e-mail was not delivered.
#[derive(Debug)]
pub(super) struct DeliveryError {
    pub scope: FailureScope,
    /// The text for the outbox, the audit row and the log.
    pub reason: String,
}

/// The e-mails that a delivery error affects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FailureScope {
    /// All e-mails of the owner: the mail server is unavailable.
    Server,
    /// All e-mails over this connection. A new connection may deliver them.
    Connection,
    /// Only this e-mail; the mail server may accept it later.
    MessageTransient,
    /// Only this e-mail, permanently.
    MessagePermanent,
}

impl FailureScope {
    pub fn with_reason(self, reason: impl Into<String>) -> DeliveryError {
        DeliveryError { scope: self, reason: reason.into() }
    }
}

impl DeliveryError {
    /// Returns the reason, cut to [`REASON_LEN_MAX`] characters.
    pub fn truncated_reason(&self) -> String {
        self.reason.chars().take(REASON_LEN_MAX).collect()
    }

    /// Replaces the reason if it contains a PIN: a mail server may quote the message in its reply.
    pub fn redact_pins(mut self, cards: &[MailedCard]) -> Self {
        if cards.iter().any(|card| !card.pin.is_blank() && self.reason.contains(card.pin.expose())) {
            self.reason = "the mail server refused the message; its reply contains a PIN and is not shown".into();
        }
        self
    }
}

/// The TLS settings of connections.
#[derive(Debug)]
pub(super) struct Tls {
    mode: MailTls,
    certificates: Vec<Certificate>,
}

impl Tls {
    /// Trusts the certificates in `file` (unless the path is empty) in addition to those of the system.
    pub fn new(mode: MailTls, file: &Path) -> Result<Self, MailError> {
        let mut certificates = Vec::new();
        if !file.as_os_str().is_empty() {
            let file_error = |problem| MailError::Certificates { path: file.display().to_string(), problem };
            let pem = input::read_file(file).map_err(|error| file_error(error.to_string()))?;
            if !pem.contains("-----BEGIN CERTIFICATE-----") {
                return Err(file_error("it contains no certificate".into()));
            }
            certificates.push(Certificate::from_pem(pem.as_bytes()).map_err(|error| file_error(error.to_string()))?);
        }
        Ok(Self { mode, certificates })
    }

    fn parameters(&self, host: &str) -> Result<Option<TlsParameters>, Error> {
        if self.mode == MailTls::Off {
            return Ok(None);
        }
        let builder = TlsParameters::builder(host.to_owned());
        self.certificates
            .iter()
            .cloned()
            .fold(builder, |builder, certificate| builder.add_root_certificate(certificate))
            .build()
            .map(Some)
    }
}

/// An open SMTP connection, logged in.
pub(super) struct SmtpConnection {
    smtp: AsyncSmtpConnection,
    timeout: Duration,
    delivered: usize,
}

impl SmtpConnection {
    /// Connects, starts TLS and logs in. `timeout` applies to these three steps together, and later to each step of a
    /// delivery.
    pub async fn open(account: &SmtpAccount, tls: &Tls, timeout: Duration) -> Result<Self, DeliveryError> {
        let smtp = with_timeout(timeout, connect_and_login(account, tls))
            .await
            .map_err(|reason| FailureScope::Server.with_reason(reason))?;
        Ok(Self { smtp: smtp.map_err(|reason| FailureScope::Server.with_reason(reason))?, timeout, delivered: 0 })
    }

    /// Returns the number of e-mails delivered over this connection.
    pub fn delivered(&self) -> usize {
        self.delivered
    }

    /// Sends the sender, the recipient and the DATA command. The mail server delivers nothing until
    /// [`deliver`](Self::deliver).
    pub async fn send_envelope(&mut self, message: &Message) -> Result<(), DeliveryError> {
        with_timeout(self.timeout, send_envelope(&mut self.smtp, message, self.delivered > 0))
            .await
            .map_err(|reason| FailureScope::Server.with_reason(reason))?
    }

    /// Sends the message. The mail server may have accepted it even if an error is returned.
    pub async fn deliver(&mut self, message: &Message) -> Result<(), DeliveryError> {
        let message = message.formatted();
        let accepted = with_timeout(self.timeout, self.smtp.message(&message))
            .await
            .map_err(|reason| FailureScope::Server.with_reason(reason))?;
        accepted.map_err(|error| classify_error("the message", &error))?;
        self.delivered += 1;
        Ok(())
    }

    /// Sends QUIT and waits at most one second for the reply.
    pub async fn close(mut self) {
        let _ = with_timeout(Duration::from_secs(1), self.smtp.quit()).await;
    }
}

async fn with_timeout<T>(timeout: Duration, operation: impl Future<Output = T>) -> Result<T, String> {
    let timeout_error = |_| format!("no answer within {}", humantime::format_duration(timeout));
    tokio::time::timeout(timeout, operation).await.map_err(timeout_error)
}

async fn connect_and_login(account: &SmtpAccount, tls: &Tls) -> Result<AsyncSmtpConnection, String> {
    let SmtpAccount { host, port, login, sender } = account;
    let error_at = |step: &'static str| move |error| describe_error(step, &error);
    let hello = ClientId::Domain(sender.email.domain().to_owned());
    let parameters = tls.parameters(host).map_err(error_at("TLS"))?;
    let (implicit_tls, starttls) = if *port == IMPLICIT_TLS_PORT { (parameters, None) } else { (None, parameters) };
    let stream = open_stream(host, *port, implicit_tls).await?;
    let mut smtp = AsyncSmtpConnection::connect_with_transport(stream, &hello).await.map_err(error_at("connecting"))?;
    if let Some(parameters) = starttls {
        if smtp.can_starttls() {
            smtp.starttls(parameters, &hello).await.map_err(error_at("STARTTLS"))?;
        } else if tls.mode == MailTls::Required {
            return Err("the mail server does not offer STARTTLS, which mail_tls requires".into());
        }
    }
    if let Some(credentials) = login {
        smtp.auth(DEFAULT_MECHANISMS, credentials).await.map_err(|error| match error.status() {
            // Only the code: the text of the reply might quote the credentials.
            Some(code) => format!("AUTH: {code}"),
            None if error.is_client() => describe_error("AUTH", &error),
            None => "AUTH: invalid reply".into(),
        })?;
    }
    Ok(smtp)
}

/// Connects, and starts TLS at once if `implicit_tls` is given. What the mail server sends is bounded, also inside TLS.
#[expect(deprecated, reason = "the only way to TLS from the first byte over a given stream")]
async fn open_stream(
    host: &str,
    port: u16,
    implicit_tls: Option<TlsParameters>,
) -> Result<Box<dyn AsyncTokioStream>, String> {
    let connect = async {
        let stream = TcpStream::connect((host, port)).await?;
        let peer = stream.peer_addr()?;
        Ok((stream, peer))
    };
    let (stream, peer) = connect.await.map_err(|error: io::Error| format!("connecting: {error}"))?;
    let stream = Box::new(ReplyLimiter::new(stream, peer));
    let Some(parameters) = implicit_tls else { return Ok(stream) };
    let mut encrypted = AsyncNetworkStream::use_existing_tokio1(stream);
    encrypted.upgrade_tls(parameters).await.map_err(|error| describe_error("TLS", &error))?;
    Ok(Box::new(ReplyLimiter::new(encrypted.compat(), peer)))
}

async fn send_envelope(
    smtp: &mut AsyncSmtpConnection,
    message: &Message,
    is_reused: bool,
) -> Result<(), DeliveryError> {
    let mut parameters = Vec::new();
    let (from, to) = (message.envelope().from(), message.envelope().to());
    let ascii = from.into_iter().chain(to).all(|address| AsRef::<str>::as_ref(address).is_ascii());
    if !ascii {
        if !smtp.server_info().supports_feature(Extension::SmtpUtfEight) {
            return Err(FailureScope::MessagePermanent
                .with_reason("the mail server does not support non-ASCII addresses (SMTPUTF8)"));
        }
        parameters.push(MailParameter::SmtpUtfEight);
    }
    smtp.command(Mail::new(from.cloned(), parameters)).await.map_err(|error| {
        // All e-mails of the owner have the same sender. A connection that has delivered an e-mail accepted it before.
        let scope = if is_reused { FailureScope::Connection } else { FailureScope::Server };
        scope.with_reason(describe_error("MAIL FROM", &error))
    })?;
    for recipient in to {
        let reply = smtp.command(Rcpt::new(recipient.clone(), Vec::new())).await;
        reply.map_err(|error| classify_error("RCPT TO", &error))?;
    }
    smtp.command(Data).await.map(drop).map_err(|error| classify_error("DATA", &error))
}

/// Classifies the mail server's error in a step that concerns one e-mail.
fn classify_error(step: &'static str, error: &Error) -> DeliveryError {
    let scope = match error.status().map(u16::from) {
        Some(REPLY_SERVICE_UNAVAILABLE) | None => FailureScope::Server,
        Some(_) if error.is_permanent() => FailureScope::MessagePermanent,
        Some(_) => FailureScope::MessageTransient,
    };
    scope.with_reason(describe_error(step, error))
}

/// Describes an error in one line, for operators.
fn describe_error(step: &str, error: &Error) -> String {
    let description = match (error.status(), error.source()) {
        (Some(code), Some(text)) => format!("{step}: {code} {text}"),
        _ => format!("{step}: {error}"),
    };
    description.chars().map(|char| if char.is_control() { ' ' } else { char }).collect()
}
