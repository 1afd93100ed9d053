//! E-mails to buyers of cards. A sale writes its e-mail into the outbox, in its own transaction; the e-mail is sent
//! after the commit. A slow or unreachable mail server delays no sale. If a server is killed, its e-mails stay in the
//! outbox and another server sends them.

mod account;
mod outbox;
mod reply_limiter;
mod sender;
mod smtp;
mod template;
mod test_message;

use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub use self::account::{OutboxEntry, SmtpAccountError, is_address, is_sender};
use self::smtp::Tls;
pub use self::template::TemplateError;
use self::template::Templates;
pub use self::test_message::{TestError, TestResult};
use crate::config::Config;
use crate::locks::KeyedSemaphores;

/// Maximum number of connections from this server to one mail server. Some mail servers treat more as an attack.
const CONNECTIONS_PER_HOST_MAX: usize = 4;

/// The sender of e-mails, created once at startup.
#[derive(Debug)]
pub struct Mailer {
    templates: Templates,
    tls: Tls,
    /// Maximum time for each of three steps of the mail server: accept the connection and the login, accept the
    /// envelope, accept the message.
    timeout: Duration,
    retry_hours: i32,
    retention_days: i32,
    wake_signal: Notify,
    /// Cancelled when the server shuts down: no further e-mail is started.
    stopping: CancellationToken,
    /// Cancelled when the last e-mail is finished.
    stopped: CancellationToken,
    /// Permits for connections, by the name and port of the mail server.
    host_permits: KeyedSemaphores<(String, u16)>,
}

/// The reason for which the mail settings of the server are invalid.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "described by the error messages")]
pub enum MailError {
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error("cannot use mail_ca ({path}): {problem}")]
    Certificates { path: String, problem: String },
}

impl Mailer {
    /// Reads the templates and certificates that the settings name.
    pub fn new(config: &Config) -> Result<Self, MailError> {
        Ok(Self {
            templates: Templates::load(&config.mail_templates)?,
            tls: Tls::new(config.mail_tls, &config.mail_ca)?,
            timeout: config.mail_timeout,
            retry_hours: i32::try_from(config.mail_hours.get()).unwrap_or(i32::MAX),
            retention_days: i32::try_from(config.mail_retention_days.get()).unwrap_or(i32::MAX),
            wake_signal: Notify::new(),
            stopping: CancellationToken::new(),
            stopped: CancellationToken::new(),
            host_permits: KeyedSemaphores::new(CONNECTIONS_PER_HOST_MAX),
        })
    }

    /// Wakes the sender: there is a new e-mail in the outbox.
    pub fn wake(&self) {
        self.wake_signal.notify_one();
    }

    /// Prevents the start of further e-mails, and waits up to `max_wait` for the e-mails whose message is being sent.
    pub async fn stop(&self, max_wait: Duration) {
        self.stopping.cancel();
        if tokio::time::timeout(max_wait, self.stopped.cancelled()).await.is_err() {
            tracing::warn!("shutdown timeout, aborting e-mail delivery: an e-mail may be sent twice");
        }
    }
}
