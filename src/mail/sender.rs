//! Sends the e-mails in the outbox. Each owner has its own concurrent round, so that the mail server of one owner
//! delays no e-mail of another.

use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lettre::Message;
use sqlx::PgPool;
use tokio::time::MissedTickBehavior;

use super::Mailer;
use super::account::{SmtpAccount, SmtpAccountError, parse_recipient};
use super::outbox::{self, ClaimedMail, MailedCard};
use super::smtp::{DeliveryError, FailureScope, SmtpConnection};
use crate::accounts::AccountCache;

/// Interval at which the outbox is polled, for e-mails whose retry delay is over or that other servers left.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum number of e-mails over one connection; then another owner may use the permit.
const MAILS_PER_CONNECTION_MAX: usize = 100;
/// A claim lasts this many times the timeout of one step of the mail server.
const CLAIM_TIMEOUT_FACTOR: u32 = 5;
const PURGE_INTERVAL: Duration = Duration::from_mins(1);
const RECORD_RETRY_DELAY_MIN: Duration = Duration::from_millis(100);
const RECORD_RETRY_DELAY_MAX: Duration = Duration::from_secs(5);

impl Mailer {
    /// Sends the e-mails in the outbox until [`stop`](Self::stop) is called.
    pub async fn run(&self, pool: &PgPool, accounts: &AccountCache) {
        tokio::select! {
            () = self.send_loop(pool, accounts) => {}
            () = self.purge_loop(pool) => {}
        }
        self.stopped.cancel();
    }

    async fn send_loop(&self, pool: &PgPool, accounts: &AccountCache) {
        let mut rounds = FuturesUnordered::new();
        let mut busy_owners = Vec::new();
        let mut poll = tokio::time::interval(POLL_INTERVAL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        'send: while !self.stopping.is_cancelled() {
            let mut due_owners = pin!(outbox::find_due_owners(pool, busy_owners.clone()));
            // The rounds are polled too: they may hold the database connections that this query waits for.
            let owners = loop {
                tokio::select! {
                    owners = &mut due_owners => break owners,
                    Some(finished) = rounds.next() => busy_owners.retain(|owner| *owner != finished),
                    () = self.stopping.cancelled() => break 'send,
                }
            };
            let owners = owners.inspect_err(|error| tracing::debug!(%error, "outbox query failed"));
            for owner in owners.unwrap_or_default() {
                busy_owners.push(owner);
                rounds.push(async move {
                    DeliveryRound { mailer: self, pool, accounts, owner }.run().await;
                    owner
                });
            }
            loop {
                tokio::select! {
                    Some(finished) = rounds.next() => busy_owners.retain(|owner| *owner != finished),
                    _ = poll.tick() => break,
                    () = self.wake_signal.notified() => break,
                    () = self.stopping.cancelled() => break,
                }
            }
        }
        while rounds.next().await.is_some() {}
    }

    async fn purge_loop(&self, pool: &PgPool) {
        loop {
            if let Err(error) = outbox::purge_expired(pool, self.retention_days).await {
                tracing::debug!(%error, "outbox purge failed");
            }
            tokio::time::sleep(PURGE_INTERVAL).await;
        }
    }
}

/// Sends the due e-mails of one owner over one connection.
struct DeliveryRound<'a> {
    mailer: &'a Mailer,
    pool: &'a PgPool,
    accounts: &'a AccountCache,
    owner: i32,
}

impl DeliveryRound<'_> {
    async fn run(&self) {
        match SmtpAccount::load(self.owner, self.accounts).await {
            Ok(Ok(account)) => self.connect_and_send(&account).await,
            Ok(Err(error)) => self.reschedule_all(&error.to_string(), error != SmtpAccountError::Disabled).await,
            Err(error) => tracing::debug!(%error, "mail settings query failed"),
        }
    }

    async fn connect_and_send(&self, account: &SmtpAccount) {
        let open = async {
            let permit = self.mailer.host_permits.acquire((account.host.clone(), account.port)).await;
            (permit, SmtpConnection::open(account, &self.mailer.tls, self.mailer.timeout).await)
        };
        let (_permit, connection) = tokio::select! {
            opened = open => opened,
            () = self.mailer.stopping.cancelled() => return,
        };
        match connection {
            Ok(connection) => self.send_due(connection, account).await,
            Err(error) => self.reschedule_all(&error.truncated_reason(), true).await,
        }
    }

    /// Whether the mail settings are unchanged. A change takes effect with the next e-mail.
    async fn is_account_current(&self, account: &SmtpAccount) -> bool {
        matches!(SmtpAccount::load(self.owner, self.accounts).await, Ok(Ok(current)) if current == *account)
    }

    /// Sends the due e-mails until the first failure. After a database error the next poll tries again.
    async fn send_due(&self, mut connection: SmtpConnection, account: &SmtpAccount) {
        while connection.delivered() < MAILS_PER_CONNECTION_MAX
            && !self.mailer.stopping.is_cancelled()
            && self.is_account_current(account).await
        {
            let claimed = match outbox::claim(self.pool, self.owner, self.mailer.timeout * CLAIM_TIMEOUT_FACTOR).await {
                Ok(Some(claimed)) => claimed,
                Ok(None) => break,
                Err(error) => {
                    tracing::debug!(%error, "e-mail claim failed");
                    break;
                }
            };
            match self.try_send(&claimed, account, &mut connection).await {
                Ok(None) => record_with_retry(|| outbox::mark_sent(self.pool, claimed.id)).await,
                // The state of the connection is unknown after any failure: it is not used again.
                Ok(Some(error)) => return self.record_delivery_error(&claimed, &error).await,
                Err(error) => {
                    tracing::debug!(%error, "e-mail content query failed");
                    return record_with_retry(|| outbox::release_claim(self.pool, &claimed)).await;
                }
            }
        }
        connection.close().await;
    }

    /// Tries to send one e-mail. Returns `None` if the mail server has accepted it, or it was deleted meanwhile.
    async fn try_send(
        &self,
        claimed: &ClaimedMail,
        account: &SmtpAccount,
        connection: &mut SmtpConnection,
    ) -> sqlx::Result<Option<DeliveryError>> {
        let Some(cards) = outbox::fetch_cards(self.pool, claimed.id).await? else {
            return Ok(Some(FailureScope::MessagePermanent.with_reason("some of its cards no longer exist")));
        };
        if cards.is_empty() {
            return Ok(None);
        }
        let message = match self.build_message(claimed, &cards, account).await? {
            Ok(message) => message,
            Err(error) => return Ok(Some(error)),
        };
        let envelope = tokio::select! {
            envelope = connection.send_envelope(&message) => envelope,
            () = self.mailer.stopping.cancelled() => Err(FailureScope::Connection.with_reason("the server stops")),
        };
        Ok(match envelope {
            Ok(()) => connection.deliver(&message).await.err().map(|error| error.redact_pins(&cards)),
            Err(error) => Some(error),
        })
    }

    async fn build_message(
        &self,
        claimed: &ClaimedMail,
        cards: &[MailedCard],
        account: &SmtpAccount,
    ) -> sqlx::Result<Result<Message, DeliveryError>> {
        let Some(to) = parse_recipient(&claimed.address) else {
            return Ok(Err(FailureScope::MessagePermanent.with_reason("Invalid email address")));
        };
        let digits = self.accounts.settings(0).await?.nice_digits();
        let message = self.mailer.templates.build_message(claimed, cards, digits, &account.sender, to);
        Ok(message.map_err(|reason| FailureScope::MessageTransient.with_reason(reason)))
    }

    async fn record_delivery_error(&self, claimed: &ClaimedMail, error: &DeliveryError) {
        if error.scope == FailureScope::Connection {
            return record_with_retry(|| outbox::release_claim(self.pool, claimed)).await;
        }
        let (id, owner, reason) = (claimed.id, self.owner, &error.truncated_reason());
        let is_permanent = error.scope == FailureScope::MessagePermanent;
        if error.scope == FailureScope::Server {
            self.reschedule_all(reason, true).await;
        }
        let retry_hours = self.mailer.retry_hours;
        match record_with_retry(|| outbox::reschedule(self.pool, claimed, reason, is_permanent, retry_hours)).await {
            true => tracing::warn!(id, owner, reason, "e-mail failed permanently"),
            false => tracing::warn!(id, owner, reason, "e-mail not sent, retrying later"),
        }
    }

    /// Reschedules all due e-mails of the owner. `may_fail`: e-mails older than the retry period fail permanently.
    async fn reschedule_all(&self, reason: &str, may_fail: bool) {
        let retry_hours = may_fail.then_some(self.mailer.retry_hours);
        let failed = record_with_retry(|| outbox::reschedule_all(self.pool, self.owner, reason, retry_hours)).await;
        tracing::warn!(owner = self.owner, reason, failed, "e-mail delivery unavailable, retrying later");
    }
}

/// Runs a statement that records the result of an attempt, and retries until it succeeds. Until the result is recorded,
/// the e-mail could be sent again.
async fn record_with_retry<T, F: Future<Output = sqlx::Result<T>>>(record: impl Fn() -> F) -> T {
    let mut delay = RECORD_RETRY_DELAY_MIN;
    loop {
        match record().await {
            Ok(recorded) => return recorded,
            Err(error) => tracing::warn!(%error, "e-mail result not recorded, retrying"),
        }
        tokio::time::sleep(delay).await;
        delay = RECORD_RETRY_DELAY_MAX.min(delay * 2);
    }
}
