//! Sending: a task of its own for each owner who has something in the outbox, so that nobody waits for another's mail server.

use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lettre::Message;
use sqlx::PgPool;
use tokio::time::MissedTickBehavior;

use super::account::{SmtpAccount, SmtpAccountError, parse_recipient};
use super::outbox::{self, ClaimedMail, MailedCard};
use super::smtp::{DeliveryError, FailureScope, SmtpConnection};
use super::{Mailer, Stage};
use crate::accounts::AccountCache;

/// The outbox is looked into so often, for what other servers have left or the pauses have ended of.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// E-mails over one connection: then others have their turn.
const MAILS_PER_CONNECTION_MAX: usize = 100;
/// A claim lasts so many times as long as a mail server may take for one thing.
const CLAIM_TIMEOUT_FACTOR: u32 = 5;
const PURGE_INTERVAL: Duration = Duration::from_mins(1);
const RECORD_RETRY_DELAY_MIN: Duration = Duration::from_millis(100);
const RECORD_RETRY_DELAY_MAX: Duration = Duration::from_secs(5);

impl Mailer {
    /// Sends what is in the outbox until it is told to stop. Run it beside the server.
    pub async fn run(&self, pool: &PgPool, directory: &AccountCache) {
        tokio::select! {
            () = self.send_loop(pool, directory) => {}
            () = self.purge_loop(pool) => {}
        }
        self.stage.send_replace(Stage::Stopped);
    }

    async fn send_loop(&self, pool: &PgPool, directory: &AccountCache) {
        let mut rounds = FuturesUnordered::new();
        let mut busy = Vec::new();
        let mut poll = tokio::time::interval(POLL_INTERVAL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        'sending: while !self.is_stopping() {
            let mut look = pin!(outbox::find_due_owners(pool, busy.clone()));
            // Those who are sending go on meanwhile: they may hold the connections that this waits for.
            let owners = loop {
                tokio::select! {
                    owners = &mut look => break owners,
                    Some(done) = rounds.next() => busy.retain(|owner| *owner != done),
                    () = self.wait_until_stopping() => break 'sending,
                }
            };
            let owners = owners.inspect_err(|error| tracing::debug!(%error, "the outbox can't be read"));
            for owner in owners.unwrap_or_default() {
                busy.push(owner);
                rounds.push(async move {
                    DeliveryRound { mail: self, pool, accounts: directory, owner }.run().await;
                    owner
                });
            }
            loop {
                tokio::select! {
                    Some(done) = rounds.next() => busy.retain(|owner| *owner != done),
                    _ = poll.tick() => break,
                    () = self.wake_signal.notified() => break,
                    () = self.wait_until_stopping() => break,
                }
            }
        }
        while rounds.next().await.is_some() {}
    }

    async fn purge_loop(&self, pool: &PgPool) {
        loop {
            if let Err(error) = outbox::purge_expired(pool, self.retention_days).await {
                tracing::debug!(%error, "old e-mails were not forgotten");
            }
            tokio::time::sleep(PURGE_INTERVAL).await;
        }
    }
}

/// One owner's e-mails over one connection.
struct DeliveryRound<'a> {
    mail: &'a Mailer,
    pool: &'a PgPool,
    accounts: &'a AccountCache,
    owner: i32,
}

impl DeliveryRound<'_> {
    async fn run(&self) {
        match SmtpAccount::load(self.owner, self.accounts).await {
            Ok(Ok(account)) => self.connect_and_send(&account).await,
            Ok(Err(unusable)) => {
                self.reschedule_all(&unusable.to_string(), unusable != SmtpAccountError::Disabled).await
            }
            Err(error) => tracing::debug!(%error, "the settings for e-mails can't be read"),
        }
    }

    async fn connect_and_send(&self, account: &SmtpAccount) {
        let connected = async {
            let place = self.mail.acquire_host_permit(&account.host, account.port).await;
            (place, SmtpConnection::open(account, &self.mail.tls, self.mail.timeout).await)
        };
        let (_place, connection) = tokio::select! {
            connected = connected => connected,
            () = self.mail.wait_until_stopping() => return,
        };
        match connection {
            Ok(connection) => self.send_due(connection, account).await,
            Err(trouble) => self.reschedule_all(&trouble.truncated_reason(), true).await,
        }
    }

    /// Whoever changes the settings means the next e-mail.
    async fn is_account_current(&self, account: &SmtpAccount) -> bool {
        matches!(SmtpAccount::load(self.owner, self.accounts).await, Ok(Ok(now)) if now == *account)
    }

    /// Sends what is due, until something stands in the way. What the database refuses is tried again with the next look.
    async fn send_due(&self, mut connection: SmtpConnection, account: &SmtpAccount) {
        while connection.delivered() < MAILS_PER_CONNECTION_MAX
            && !self.mail.is_stopping()
            && self.is_account_current(account).await
        {
            let claimed = match outbox::claim(self.pool, self.owner, self.mail.timeout * CLAIM_TIMEOUT_FACTOR).await {
                Ok(Some(claimed)) => claimed,
                Ok(None) => break,
                Err(error) => {
                    tracing::debug!(%error, "no e-mail can be claimed");
                    break;
                }
            };
            match self.try_send(&claimed, account, &mut connection).await {
                Ok(None) => record_with_retry(|| outbox::mark_sent(self.pool, claimed.id)).await,
                // Whatever it was, this connection isn't what it should be.
                Ok(Some(trouble)) => return self.record_delivery_error(&claimed, &trouble).await,
                Err(error) => {
                    tracing::debug!(%error, "an e-mail can't be made");
                    return record_with_retry(|| outbox::release_claim(self.pool, &claimed)).await;
                }
            }
        }
        connection.close().await;
    }

    /// Tries to send one. `None`: it has gone.
    async fn try_send(
        &self,
        claimed: &ClaimedMail,
        account: &SmtpAccount,
        connection: &mut SmtpConnection,
    ) -> sqlx::Result<Option<DeliveryError>> {
        let cards = outbox::fetch_cards(self.pool, claimed.id).await?;
        let message = match self.build_message(claimed, &cards, account).await? {
            Ok(message) => message,
            Err(trouble) => return Ok(Some(trouble)),
        };
        let announced = tokio::select! {
            announced = connection.send_envelope(&message) => announced,
            () = self.mail.wait_until_stopping() => Err(FailureScope::Connection.with_reason("the server stops")),
        };
        Ok(match announced {
            Ok(()) => connection.deliver(&message).await.err().map(|trouble| trouble.redact_pins(&cards)),
            Err(trouble) => Some(trouble),
        })
    }

    async fn build_message(
        &self,
        claimed: &ClaimedMail,
        cards: &[MailedCard],
        account: &SmtpAccount,
    ) -> sqlx::Result<Result<Message, DeliveryError>> {
        if usize::try_from(claimed.card_count) != Ok(cards.len()) {
            return Ok(Err(FailureScope::MessagePermanent.with_reason("not all of its cards are there any more")));
        }
        let Some(to) = parse_recipient(&claimed.address) else {
            return Ok(Err(FailureScope::MessagePermanent.with_reason("Invalid email address")));
        };
        let digits = self.accounts.settings(0).await?.nice_digits();
        let message = self.mail.templates.build_message(claimed, cards, digits, &account.sender, to);
        Ok(message.map_err(|why| FailureScope::MessageTransient.with_reason(why)))
    }

    async fn record_delivery_error(&self, claimed: &ClaimedMail, trouble: &DeliveryError) {
        if trouble.scope == FailureScope::Connection {
            return record_with_retry(|| outbox::release_claim(self.pool, claimed)).await;
        }
        let (id, owner, why) = (claimed.id, self.owner, &trouble.truncated_reason());
        let for_good = trouble.scope == FailureScope::MessagePermanent;
        if trouble.scope == FailureScope::Server {
            self.reschedule_all(why, true).await;
        }
        match record_with_retry(|| outbox::reschedule(self.pool, claimed, why, for_good, self.mail.retry_hours)).await {
            true => tracing::warn!(id, owner, why, "an e-mail has failed for good"),
            false => tracing::warn!(id, owner, why, "an e-mail wasn't sent, and will be tried again"),
        }
    }

    /// `may_fail`: those that were tried for long enough have failed for good.
    async fn reschedule_all(&self, why: &str, may_fail: bool) {
        let hours = may_fail.then_some(self.mail.retry_hours);
        let failed = record_with_retry(|| outbox::reschedule_all(self.pool, self.owner, why, hours)).await;
        tracing::warn!(owner = self.owner, why, failed, "no e-mails are sent for the moment");
    }
}

/// What became of an e-mail is noted as soon as the database can be reached: until it knows, it might be sent again.
async fn record_with_retry<T, N: Future<Output = sqlx::Result<T>>>(note: impl Fn() -> N) -> T {
    let mut pause = RECORD_RETRY_DELAY_MIN;
    loop {
        match note().await {
            Ok(noted) => return noted,
            Err(error) => tracing::warn!(%error, "it can't be noted what became of an e-mail: trying again"),
        }
        tokio::time::sleep(pause).await;
        pause = RECORD_RETRY_DELAY_MAX.min(pause * 2);
    }
}
