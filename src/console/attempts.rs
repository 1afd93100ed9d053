//! Checks of passwords and codes, and their limit. A second factor has a million codes, so the console allows fewer
//! wrong ones than the API allows wrong passwords.

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZero;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use ipnet::IpNet;
use secrecy::SecretString;
use sqlx::PgPool;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::accounts::Account;
use super::error::ConsoleError;
use super::second_factor::{self, SpentCode};
use super::session::Session;
use crate::auth::attempt_limiter::{AttemptKind, AttemptLimiter, LockedOut};
use crate::auth::passwords;
use crate::config::Config;
use crate::http::client_addr::client_network;
use crate::locks::KeyedSemaphores;

/// Maximum number of wrong passwords and codes within the lockout, if `failed_attempts_max` is not lower.
const FAILURES_MAX: u32 = 10;
/// Duration of the lockout in seconds, if `lockout_s` is not higher.
const LOCKOUT_S: NonZero<u32> = NonZero::<u32>::MIN.saturating_add(299);
/// Maximum number of wrong passwords of one account within the lockout, from all addresses. It is higher: an attacker
/// who sends so many locks out the account's user.
const ACCOUNT_FAILURES_MAX: u32 = 100;
/// Maximum number of attempts that wait, one for each client. Each takes up to a tenth of a second.
const QUEUE_MAX: usize = 64;
/// Maximum number of guesses of PINs of an account within [`GUESSES_S`].
const GUESSES_MAX: u32 = 100;
/// Time in which guesses are counted, and duration of their lockout, in seconds.
const GUESSES_S: NonZero<u32> = NonZero::<u32>::MIN.saturating_add(599);
/// The client under which the failures of all clients are counted: an attacker has many addresses.
const ANY_CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// A hash with which the password of an unknown account is compared.
static OTHER_HASH: LazyLock<SecretString> = LazyLock::new(|| passwords::hash_argon2("").unwrap_or_default().into());

/// Admits attempts to enter a password or a code. They run one at a time, or else concurrent ones would exceed the
/// limit; each client has one in the queue, so that a flood of one client does not delay the others.
#[derive(Debug)]
pub(super) struct Attempts {
    limiter: AttemptLimiter,
    /// Counts the wrong passwords of all clients.
    of_accounts: AttemptLimiter,
    /// What could be guesses of PINs, for each account.
    guesses: AttemptLimiter,
    /// For each account, one guess at a time: concurrent ones would exceed the limit.
    of_guesses: KeyedSemaphores<String>,
    of_clients: KeyedSemaphores<IpNet>,
    queue: Arc<Semaphore>,
    running: Arc<Semaphore>,
}

/// An attempt that has begun. No other one runs until it is dropped.
#[derive(Debug)]
pub(super) struct Attempt<'a> {
    attempts: &'a Attempts,
    client: IpAddr,
    name: &'a str,
    permits: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
}

impl Attempts {
    /// Creates the limiter.
    pub fn new(config: &Config) -> Self {
        let failures_max = match config.failed_attempts_max {
            0 => FAILURES_MAX,
            failures_max => failures_max.min(FAILURES_MAX),
        };
        let lockout = config.lockout.max(LOCKOUT_S);
        Self {
            limiter: AttemptLimiter::new(failures_max, lockout),
            of_accounts: AttemptLimiter::new(ACCOUNT_FAILURES_MAX, lockout),
            guesses: AttemptLimiter::new(GUESSES_MAX, GUESSES_S),
            of_guesses: KeyedSemaphores::new(1),
            of_clients: KeyedSemaphores::new(1),
            queue: Arc::new(Semaphore::new(QUEUE_MAX)),
            running: Arc::new(Semaphore::new(1)),
        }
    }

    /// Waits until the attempt may run. It must not be awaited with a connection of the pool, which a running attempt
    /// may wait for.
    ///
    /// # Errors
    ///
    /// [`ConsoleError::TooManyAttempts`] after too many failures of the client, or too many of the account;
    /// [`ConsoleError::Busy`] if too many clients wait.
    pub async fn begin<'a>(&'a self, client: IpAddr, name: &'a str) -> Result<Attempt<'a>, ConsoleError> {
        // A client that is locked out does not wait in the queue.
        self.check_limit(client, name)?;
        let of_client = self.of_clients.acquire(client_network(client)).await;
        let waiting = self
            .queue
            .try_acquire()
            .map_err(|_| ConsoleError::Busy("Too many logins at the moment. Try again in a minute.".to_owned()))?;
        let running = self.running.clone().acquire_owned().await;
        drop(waiting);
        let running = running.map_err(|error| ConsoleError::Failed(error.to_string()))?;
        self.check_limit(client, name)?;
        Ok(Attempt { attempts: self, client, name, permits: Some((of_client, running)) })
    }

    /// Waits until a search or a file that could guess PINs may run: no other one of the account runs until the permit
    /// is dropped.
    ///
    /// # Errors
    ///
    /// [`ConsoleError::TooManyGuesses`] after too many of them.
    pub async fn begin_guess(&self, account: &str) -> Result<OwnedSemaphorePermit, ConsoleError> {
        let permit = self.of_guesses.acquire(account.to_owned()).await;
        match self.guesses.check(AttemptKind::Pin, ANY_CLIENT, account, Instant::now()) {
            Ok(()) => Ok(permit),
            Err(LockedOut { seconds }) => Err(ConsoleError::TooManyGuesses(seconds)),
        }
    }

    /// Counts a search that has found no card as one guess, a file with used PINs as several.
    pub fn record_guesses(&self, account: &str, count: u32) {
        for _ in 0..count {
            if self.guesses.record_failure(AttemptKind::Pin, ANY_CLIENT, account, Instant::now()) {
                tracing::warn!(account, "console account searches for too many unknown PINs");
            }
        }
    }

    /// Refuses during a lockout.
    fn check_limit(&self, client: IpAddr, name: &str) -> Result<(), ConsoleError> {
        let counters = [
            (&self.limiter, AttemptKind::Console, client),
            (&self.limiter, AttemptKind::ConsoleCode, ANY_CLIENT),
            (&self.of_accounts, AttemptKind::Console, ANY_CLIENT),
        ];
        for (limiter, kind, client) in counters {
            limiter
                .check(kind, client, name, Instant::now())
                .map_err(|LockedOut { seconds }| ConsoleError::TooManyAttempts(seconds))?;
        }
        Ok(())
    }
}

impl Attempt<'_> {
    /// Whether the password is the account's. Without an account the check takes the same time.
    ///
    /// # Errors
    ///
    /// [`ConsoleError::Failed`] if the check panics.
    pub async fn check_password(&mut self, account: Option<&Account>, password: &str) -> Result<bool, ConsoleError> {
        let hash = account.map(|account| account.password_argon2.clone());
        let (permits, password) = (self.permits.take(), password.to_owned());
        // The check holds the permits, because it goes on when the client disconnects.
        let check = tokio::task::spawn_blocking(move || {
            let is_correct = passwords::is_argon2(hash.as_ref().unwrap_or(&OTHER_HASH), &password);
            (is_correct, permits)
        });
        let (is_correct, permits) = check.await.map_err(|error| ConsoleError::Failed(error.to_string()))?;
        self.permits = permits;
        if !is_correct {
            self.record_failure(&self.attempts.limiter, AttemptKind::Console, self.client, account);
            self.record_failure(&self.attempts.of_accounts, AttemptKind::Console, ANY_CLIENT, account);
        }
        Ok(is_correct)
    }

    /// Whether the code is the current one of the account's second factor, or a recovery code. Each is accepted once.
    ///
    /// # Errors
    ///
    /// Database errors.
    pub async fn check_code(&mut self, pool: &PgPool, account: &Account, code: &str) -> Result<bool, ConsoleError> {
        let mut transaction = pool.begin().await?;
        let spent = account.spend_code(&mut transaction, code).await?;
        transaction.commit().await?;
        match spent {
            Some(SpentCode::SecondFactor) => {}
            Some(SpentCode::Recovery) => {
                tracing::warn!(client = %self.client, account = account.name, "console: a recovery code was used");
            }
            None => self.record_wrong_code(account),
        }
        Ok(spent.is_some())
    }

    /// Whether the code is the first one of the new second factor that the session sets up. It is not spent.
    ///
    /// # Errors
    ///
    /// Database errors.
    pub async fn check_first_code(
        &mut self,
        pool: &PgPool,
        session: &Session,
        code: &str,
    ) -> Result<bool, ConsoleError> {
        let account = &session.account;
        let is_correct =
            second_factor::is_first_code(&mut *pool.acquire().await?, account.id, session.id, code).await?;
        if !is_correct {
            self.record_wrong_code(account);
        }
        Ok(is_correct)
    }

    fn record_wrong_code(&self, account: &Account) {
        self.record_failure(&self.attempts.limiter, AttemptKind::Console, self.client, Some(account));
        self.record_failure(&self.attempts.limiter, AttemptKind::ConsoleCode, ANY_CLIENT, Some(account));
    }

    fn record_failure(&self, limiter: &AttemptLimiter, kind: AttemptKind, client: IpAddr, account: Option<&Account>) {
        if limiter.record_failure(kind, client, self.name, Instant::now()) {
            // Without an account, the field "name" may have a password.
            let account = account.map_or("an unknown account", |account| account.name.as_str());
            let client = self.client;
            tracing::warn!(%client, account, "console account locked: too many wrong passwords or codes");
        }
    }
}
