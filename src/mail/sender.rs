//! Sending: a task of its own for each owner who has something in the outbox, so that nobody waits for another's mail server.

use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lettre::Message;
use sqlx::PgPool;
use tokio::time::MissedTickBehavior;

use super::account::{Account, Unusable, recipient};
use super::outbox::{self, Card, Claimed};
use super::smtp::{Connection, Means, Trouble};
use super::{Mail, Stage};
use crate::accounts::Directory;

/// The outbox is looked into so often, for what other servers have left or the pauses have ended of.
const POLL: Duration = Duration::from_secs(1);
/// E-mails over one connection: then others have their turn.
const TURN: usize = 100;
/// A claim lasts so many times as long as a mail server may take for one thing.
const LEASE: u32 = 5;
const FORGET: Duration = Duration::from_mins(1);
const SHORTEST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(5);

impl Mail {
    /// Sends what is in the outbox until it is told to stop. Run it beside the server.
    pub async fn run(&self, pool: &PgPool, directory: &Directory) {
        tokio::select! {
            () = self.send(pool, directory) => {}
            () = self.forget(pool) => {}
        }
        self.stage.send_replace(Stage::Stopped);
    }

    async fn send(&self, pool: &PgPool, directory: &Directory) {
        let mut rounds = FuturesUnordered::new();
        let mut busy = Vec::new();
        let mut poll = tokio::time::interval(POLL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        'sending: while !self.is_stopping() {
            let mut look = pin!(outbox::owners(pool, busy.clone()));
            // Those who are sending go on meanwhile: they may hold the connections that this waits for.
            let owners = loop {
                tokio::select! {
                    owners = &mut look => break owners,
                    Some(done) = rounds.next() => busy.retain(|owner| *owner != done),
                    () = self.stopping() => break 'sending,
                }
            };
            let owners = owners.inspect_err(|error| tracing::debug!(%error, "the outbox can't be read"));
            for owner in owners.unwrap_or_default() {
                busy.push(owner);
                rounds.push(async move {
                    Round { mail: self, pool, directory, owner }.go().await;
                    owner
                });
            }
            loop {
                tokio::select! {
                    Some(done) = rounds.next() => busy.retain(|owner| *owner != done),
                    _ = poll.tick() => break,
                    () = self.awake.notified() => break,
                    () = self.stopping() => break,
                }
            }
        }
        while rounds.next().await.is_some() {}
    }

    async fn forget(&self, pool: &PgPool) {
        loop {
            if let Err(error) = outbox::forget(pool, self.keep_days).await {
                tracing::debug!(%error, "old e-mails were not forgotten");
            }
            tokio::time::sleep(FORGET).await;
        }
    }
}

/// One owner's e-mails over one connection.
struct Round<'a> {
    mail: &'a Mail,
    pool: &'a PgPool,
    directory: &'a Directory,
    owner: i32,
}

impl Round<'_> {
    async fn go(&self) {
        match Account::of(self.owner, self.directory).await {
            Ok(Ok(account)) => self.send_by(&account).await,
            Ok(Err(unusable)) => self.put_off_all(&unusable.to_string(), unusable != Unusable::Off).await,
            Err(error) => tracing::debug!(%error, "the settings for e-mails can't be read"),
        }
    }

    async fn send_by(&self, account: &Account) {
        let connected = async {
            let place = self.mail.admitted(&account.host, account.port).await;
            (place, Connection::open(account, &self.mail.tls, self.mail.wait).await)
        };
        let (_place, connection) = tokio::select! {
            connected = connected => connected,
            () = self.mail.stopping() => return,
        };
        match connection {
            Ok(connection) => self.send_over(connection, account).await,
            Err(trouble) => self.put_off_all(&trouble.why(), true).await,
        }
    }

    /// Whoever changes the settings means the next e-mail.
    async fn is_still(&self, account: &Account) -> bool {
        matches!(Account::of(self.owner, self.directory).await, Ok(Ok(now)) if now == *account)
    }

    /// Sends what is due, until something stands in the way. What the database refuses is tried again with the next look.
    async fn send_over(&self, mut connection: Connection, account: &Account) {
        while connection.delivered() < TURN && !self.mail.is_stopping() && self.is_still(account).await {
            let claimed = match outbox::claim(self.pool, self.owner, self.mail.wait * LEASE).await {
                Ok(Some(claimed)) => claimed,
                Ok(None) => break,
                Err(error) => {
                    tracing::debug!(%error, "no e-mail can be claimed");
                    break;
                }
            };
            match self.attempt(&claimed, account, &mut connection).await {
                Ok(None) => until_noted(|| outbox::sent(self.pool, claimed.id)).await,
                // Whatever it was, this connection isn't what it should be.
                Ok(Some(trouble)) => return self.note(&claimed, &trouble).await,
                Err(error) => {
                    tracing::debug!(%error, "an e-mail can't be made");
                    return until_noted(|| outbox::give_back(self.pool, &claimed)).await;
                }
            }
        }
        connection.close().await;
    }

    /// Tries to send one. `None`: it has gone.
    async fn attempt(
        &self,
        claimed: &Claimed,
        account: &Account,
        connection: &mut Connection,
    ) -> sqlx::Result<Option<Trouble>> {
        let cards = outbox::cards(self.pool, claimed.id).await?;
        let message = match self.message(claimed, &cards, account).await? {
            Ok(message) => message,
            Err(trouble) => return Ok(Some(trouble)),
        };
        let announced = tokio::select! {
            announced = connection.announce(&message) => announced,
            () = self.mail.stopping() => Err(Means::Connection.because("the server stops")),
        };
        Ok(match announced {
            Ok(()) => connection.deliver(&message).await.err().map(|trouble| trouble.without(&cards)),
            Err(trouble) => Some(trouble),
        })
    }

    async fn message(
        &self,
        claimed: &Claimed,
        cards: &[Card],
        account: &Account,
    ) -> sqlx::Result<Result<Message, Trouble>> {
        if usize::try_from(claimed.cards) != Ok(cards.len()) {
            return Ok(Err(Means::ForGood.because("not all of its cards are there any more")));
        }
        let Some(to) = recipient(&claimed.address) else {
            return Ok(Err(Means::ForGood.because("Invalid email address")));
        };
        let digits = self.directory.settings(0).await?.nice_digits();
        let message = self.mail.templates.message(claimed, cards, digits, &account.sender, to);
        Ok(message.map_err(|why| Means::ForNow.because(why)))
    }

    async fn note(&self, claimed: &Claimed, trouble: &Trouble) {
        if trouble.means == Means::Connection {
            return until_noted(|| outbox::give_back(self.pool, claimed)).await;
        }
        let (id, owner, why) = (claimed.id, self.owner, &trouble.why());
        let for_good = trouble.means == Means::ForGood;
        if trouble.means == Means::Server {
            self.put_off_all(why, true).await;
        }
        match until_noted(|| outbox::put_off(self.pool, claimed, why, for_good, self.mail.hours)).await {
            true => tracing::warn!(id, owner, why, "an e-mail has failed for good"),
            false => tracing::warn!(id, owner, why, "an e-mail wasn't sent, and will be tried again"),
        }
    }

    /// `may_fail`: those that were tried for long enough have failed for good.
    async fn put_off_all(&self, why: &str, may_fail: bool) {
        let hours = may_fail.then_some(self.mail.hours);
        let failed = until_noted(|| outbox::put_off_all(self.pool, self.owner, why, hours)).await;
        tracing::warn!(owner = self.owner, why, failed, "no e-mails are sent for the moment");
    }
}

/// What became of an e-mail is noted as soon as the database can be reached: until it knows, it might be sent again.
async fn until_noted<T, N: Future<Output = sqlx::Result<T>>>(note: impl Fn() -> N) -> T {
    let mut pause = SHORTEST_RETRY;
    loop {
        match note().await {
            Ok(noted) => return noted,
            Err(error) => tracing::warn!(%error, "it can't be noted what became of an e-mail: trying again"),
        }
        tokio::time::sleep(pause).await;
        pause = LONGEST_RETRY.min(pause * 2);
    }
}
