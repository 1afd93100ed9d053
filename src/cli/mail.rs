//! `mortise mail`: shows and repairs the outbox, and tests the mail settings.

use clap::Subcommand;
use serde_json::json;

use super::database::{with_database, with_transaction};
use super::{CommandError, Report, author, find_settings_owner_id};
use crate::accounts::AccountCache;
use crate::back_office::BackOfficeError;
use crate::back_office::mails::{self, MailState, Retry};
use crate::config::{Config, OnOff};
use crate::mail::{Mailer, TestError};

/// Subcommands of `mortise mail`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the e-mails that wait or have failed, and why
    List {
        /// Only those that have failed permanently
        #[arg(long, conflicts_with = "sent")]
        failed: bool,
        /// Only those that were sent
        #[arg(long)]
        sent: bool,
        /// The maximum number of e-mails, the oldest first
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: u32,
    },
    /// Send e-mails at once that wait or have failed
    Retry {
        /// The ids, as in `mortise mail list`
        #[arg(required_unless_present_any = ["all", "failed"], conflicts_with_all = ["all", "failed"])]
        ids: Vec<i64>,
        /// All e-mails that wait
        #[arg(long, conflicts_with = "failed")]
        all: bool,
        /// All e-mails that have failed, except cancelled ones
        #[arg(long)]
        failed: bool,
        /// Also those of the named e-mails that were sent: the buyer gets them twice
        #[arg(long, conflicts_with_all = ["all", "failed"])]
        again: bool,
    },
    /// Correct the address of an e-mail that was not sent, and send it at once
    Correct {
        /// The id, as in `mortise mail list`
        id: i64,
        /// The correct address
        address: String,
    },
    /// Send a test e-mail with the mail settings
    Test {
        /// The address to send it to
        address: String,
        /// The reseller whose mail settings are tested [default: the admin]
        #[arg(long, value_name = "RESELLER")]
        user: Option<String>,
    },
}

/// Runs the command.
pub async fn run(command: &Command, config: &Config) -> Result<Report, CommandError> {
    match command {
        Command::List { failed, sent, limit } => list(*failed, *sent, *limit, config).await,
        Command::Retry { all: true, .. } => retry(&Retry::Waiting, config).await,
        Command::Retry { failed: true, .. } => retry(&Retry::Failed, config).await,
        Command::Retry { ids, again, .. } => retry(&Retry::Ids { ids, sent_too: *again }, config).await,
        Command::Correct { id, address } => correct(*id, address, config).await,
        Command::Test { address, user } => test(address, user.as_deref(), config).await,
    }
}

async fn list(failed: bool, sent: bool, limit: u32, config: &Config) -> Result<Report, CommandError> {
    let states = match (failed, sent) {
        (true, _) => &[MailState::Failed][..],
        (_, true) => &[MailState::Sent],
        _ => &[MailState::Waiting, MailState::Failed],
    };
    let mails = with_database(config, async |pool| Ok(mails::list(pool, states, limit).await?)).await?;
    let headings = ["ID", "STATE", "OWNER", "ADDRESS", "CARDS", "SALE (UTC)", "ATTEMPTS", "NEXT ATTEMPT", "REASON"];
    Ok(Report::table(headings, &mails, |mail| {
        [
            mail.id.to_string(),
            mail.state.clone(),
            mail.owner.clone().unwrap_or_default(),
            mail.address.clone(),
            mail.cards.to_string(),
            mail.created_at.clone(),
            mail.attempts.to_string(),
            mail.next_attempt_at.clone().unwrap_or_default(),
            mail.reason.clone().unwrap_or_default(),
        ]
    }))
}

async fn retry(retry: &Retry<'_>, config: &Config) -> Result<Report, CommandError> {
    let count = with_transaction(config, async |connection| {
        mails::retry(connection, retry, &author()).await.map_err(|error| match error {
            BackOfficeError::Refused(message) if message.ends_with("was sent") => {
                CommandError::Failed(format!("{message}: --again sends it again"))
            }
            error => with_hint(error),
        })
    })
    .await?;
    let text = format!(
        "E-mails to send now: {count}. A running server sends them within a second, if Email_Sending_Enabled is on."
    );
    Ok(Report::new(text, json!({ "retried": count })))
}

async fn correct(id: i64, address: &str, config: &Config) -> Result<Report, CommandError> {
    let before = with_transaction(config, async |connection| {
        mails::correct(connection, id, address, &author()).await.map_err(with_hint)
    })
    .await?;
    let text = format!("The e-mail {id} is sent to {address} now (it was for {before}).");
    Ok(Report::new(text, json!({ "id": id, "address": address, "before": before })))
}

/// Adds how an operator finds the e-mails.
fn with_hint(error: BackOfficeError) -> CommandError {
    match error {
        BackOfficeError::NotFound(message) => {
            CommandError::NotFound(format!("{message}: `mortise mail list` shows all"))
        }
        error => error.into(),
    }
}

async fn test(address: &str, user: Option<&str>, config: &Config) -> Result<Report, CommandError> {
    let mailer = Mailer::new(config).map_err(|error| CommandError::Usage(error.to_string()))?;
    let sent = with_database(config, async |pool| {
        let owner = find_settings_owner_id(pool, user).await?;
        let accounts = AccountCache::new(pool.clone().into(), OnOff::Off);
        Ok(mailer.send_test(&accounts, owner, address).await?)
    })
    .await?;
    let text = format!("{}:{} accepted the test e-mail from {} to {address}.", sent.server, sent.port, sent.sender);
    Ok(Report::new(
        text,
        json!({ "server": sent.server, "port": sent.port, "sender": sent.sender, "address": address }),
    ))
}

impl From<TestError> for CommandError {
    fn from(error: TestError) -> Self {
        match error {
            TestError::Database(error) => error.into(),
            TestError::InvalidAddress(_) => Self::Usage(error.to_string()),
            error => Self::Failed(error.to_string()),
        }
    }
}
