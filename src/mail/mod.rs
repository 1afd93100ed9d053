//! E-mails to buyers of cards: written into the outbox by the sale, sent after its commit. Neither a slow nor a dead mail server
//! delays a sale, and a server that is killed loses none: another one sends what it left.

mod account;
mod outbox;
mod sender;
mod smtp;
mod template;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};

pub use self::account::{OutboxEntry, SmtpAccountError};
use self::smtp::Tls;
pub use self::template::TemplateError;
use self::template::Templates;
use crate::config::Config;

/// To one mail server at once, from this server; more would be taken for an attack by some.
const CONNECTIONS_PER_HOST_MAX: usize = 4;

/// What sends e-mails, made once at the start.
#[derive(Debug)]
pub struct Mailer {
    templates: Templates,
    tls: Tls,
    /// How long a mail server may take for each of three things.
    timeout: Duration,
    retry_hours: i32,
    retention_days: i32,
    wake_signal: Notify,
    stage: watch::Sender<Stage>,
    /// Who may connect to a mail server, by its name and port.
    host_limits: Mutex<HashMap<(String, u16), Weak<Semaphore>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Sending,
    Stopping,
    Stopped,
}

/// Why no e-mail could be sent with these settings.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum MailError {
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error("mail_ca ({path}) can't be used: {problem}")]
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
            stage: watch::Sender::new(Stage::Sending),
            host_limits: Mutex::default(),
        })
    }

    /// There is something in the outbox.
    pub fn wake(&self) {
        self.wake_signal.notify_one();
    }

    /// Begins no other e-mail, and waits until those that a mail server is accepting have gone, but not for ever.
    pub async fn stop(&self, patience: Duration) {
        self.stage.send_if_modified(|stage| {
            let sends = *stage == Stage::Sending;
            *stage = if sends { Stage::Stopping } else { *stage };
            sends
        });
        let stopped = async { self.stage.subscribe().wait_for(|stage| *stage == Stage::Stopped).await.is_ok() };
        if tokio::time::timeout(patience, stopped).await.is_err() {
            tracing::warn!("e-mails that are being sent aren't waited for any longer: one may come twice");
        }
    }

    fn is_stopping(&self) -> bool {
        *self.stage.borrow() != Stage::Sending
    }

    async fn wait_until_stopping(&self) {
        let _ = self.stage.subscribe().wait_for(|stage| *stage != Stage::Sending).await;
    }

    /// A place among the connections to a mail server.
    async fn acquire_host_permit(&self, host: &str, port: u16) -> Option<OwnedSemaphorePermit> {
        let door = {
            let mut doors = self.host_limits.lock().unwrap_or_else(PoisonError::into_inner);
            doors.retain(|_, door| door.strong_count() > 0);
            let door = doors.entry((host.to_owned(), port)).or_default();
            door.upgrade().unwrap_or_else(|| {
                let new = Arc::new(Semaphore::new(CONNECTIONS_PER_HOST_MAX));
                *door = Arc::downgrade(&new);
                new
            })
        };
        door.acquire_owned().await.ok()
    }
}
