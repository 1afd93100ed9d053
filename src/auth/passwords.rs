//! Verification of the parameter `p` (`http.md`, "Admission"): against the argon2id hash, or against MOR's SHA-1 hash
//! as long as the user has no argon2id hash.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use argon2::Argon2;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha1::{Digest, Sha1};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinError;

use crate::accounts::User;
use crate::db::pool::Pool;
use crate::error::ApiError;
use crate::input::find_invisible;
use crate::locks::KeyedSemaphores;
use crate::server::limits::{LoadLimiter, WaitQueue};

/// How long a wrong password stays in the cache, and a correct one after its last use.
const CACHE_TTL: Duration = Duration::from_secs(300);
/// Maximum number of wrong passwords in the cache. At the limit all of them are removed.
const CACHED_WRONG_MAX: usize = 10_000;
/// Minimum length of a new password. With an API password and a key, cards can be bought.
const PASSWORD_CHARS_MIN: usize = 12;
/// Maximum number of concurrent checks. Each takes 19 MiB and most of a core for some hundredths of a second.
const CONCURRENT_CHECKS_MAX: usize = 2;
/// Maximum number of requests that wait for a check, in total and for one client.
const WAITING_MAX: usize = 64;
const WAITING_PER_CLIENT_MAX: usize = 16;
/// Maximum number of requests that wait for the result of a check of the same password, in total and for one client.
const SHARING_MAX: usize = 1024;
const SHARING_PER_CLIENT_MAX: usize = 256;

type CacheKey = [u8; 32];

/// Verifies passwords, and caches the results. The cache does not contain passwords but their HMACs, with a random key
/// that is created at the start and exists only in memory.
#[derive(Debug)]
pub struct Passwords {
    /// Holds the key.
    hmac: Hmac<Sha256>,
    /// Maximum time that a request waits in each of the queues.
    max_wait: Duration,
    results: Mutex<Results>,
    checks: Arc<Semaphore>,
    /// The requests that wait for a check.
    pub check_queue: WaitQueue,
    /// Requests with the same password share one check.
    shared_checks: KeyedSemaphores<CacheKey>,
    /// The requests that wait for a check that another request started.
    pub sharing_queue: WaitQueue,
}

/// The results of checks. A result stays true: its key covers the stored hashes. With the time of the check, or of the
/// last use of a correct password.
#[derive(Debug, Default)]
struct Results {
    correct: HashMap<CacheKey, Instant>,
    wrong: HashMap<CacheKey, Instant>,
}

/// An attempt to authenticate with a password.
#[expect(missing_docs, reason = "self-explanatory names")]
pub struct PasswordAttempt<'a> {
    pub user: &'a User,
    pub password: &'a str,
    pub client: IpAddr,
    pub load: &'a LoadLimiter,
}

impl Passwords {
    /// Creates the cache with a key from the operating system's random source. A request waits up to `max_wait` for a
    /// check.
    pub fn new(max_wait: Duration) -> Result<Self, getrandom::Error> {
        let mut hmac_key = [0; 64];
        getrandom::fill(&mut hmac_key)?;
        Ok(Self {
            hmac: Hmac::new(&hmac_key.into()),
            max_wait,
            results: Mutex::default(),
            checks: Arc::new(Semaphore::new(CONCURRENT_CHECKS_MAX)),
            check_queue: WaitQueue::new("password_checks", WAITING_MAX, WAITING_PER_CLIENT_MAX),
            shared_checks: KeyedSemaphores::new(1),
            sharing_queue: WaitQueue::new("same_passwords", SHARING_MAX, SHARING_PER_CLIENT_MAX),
        })
    }

    /// Whether the password is the user's. The first successful check against MOR's SHA-1 hash stores an argon2id hash,
    /// which is used from then on.
    ///
    /// `check_limit` is called after each wait: the limit of failed attempts may have been reached meanwhile.
    ///
    /// # Errors
    ///
    /// [`ApiError::Overloaded`] if too many requests wait for a check, [`ApiError::Unavailable`] if it does not start
    /// in time.
    pub async fn verify(
        &self,
        pool: &Pool,
        attempt: &PasswordAttempt<'_>,
        check_limit: impl Fn() -> Result<(), ApiError>,
    ) -> Result<bool, ApiError> {
        let PasswordAttempt { user, password, client, load } = *attempt;
        let cache_key = self.cache_key(user, password);
        if self.cached_result(&cache_key) == Some(true) {
            return Ok(true);
        }
        let shared = self.sharing_queue.wait(load, client, self.max_wait, self.shared_checks.acquire(cache_key));
        let _shared = shared.await?.ok_or(ApiError::Unavailable)?;
        check_limit()?;
        if let Some(is_correct) = self.cached_result(&cache_key) {
            return Ok(is_correct);
        }
        let is_correct = match &user.password_argon2 {
            Some(hash) => {
                let permit = self.wait_for_check(load, client).await?;
                check_limit()?;
                matches_argon2(permit, hash.expose_secret().to_owned(), password.to_owned()).await?
            }
            None => {
                let is_correct = matches_sha1(user.password.expose_secret(), password);
                if is_correct {
                    self.upgrade_hash(pool, attempt).await?;
                }
                is_correct
            }
        };
        self.cache_result(cache_key, is_correct);
        Ok(is_correct)
    }

    /// Stores an argon2id hash of a correct password, unless too many requests wait for a check.
    async fn upgrade_hash(&self, pool: &Pool, attempt: &PasswordAttempt<'_>) -> sqlx::Result<()> {
        let PasswordAttempt { user, password, client, load } = *attempt;
        let check = self.wait_for_check(load, client);
        let (Ok(permit), password) = (check.await, password.to_owned()) else { return Ok(()) };
        let hash = run_check(permit, move || hash_argon2(&password)).await;
        let Ok(Some(hash)) = hash else { return Ok(()) };
        let mut connection = pool.acquire().await?;
        // Only if the SHA-1 hash is still the one that was checked: the password may have been changed meanwhile.
        let update = sqlx::query!(
            "update users set password_argon2 = $1 where id = $2 and password = $3 and password_argon2 is null",
            hash,
            user.id,
            user.password.expose_secret()
        );
        pool.limit_commit(update.execute(&mut *connection)).await?;
        connection.release_clean();
        Ok(())
    }

    /// Waits until a check may run.
    async fn wait_for_check(&self, load: &LoadLimiter, client: IpAddr) -> Result<OwnedSemaphorePermit, ApiError> {
        let permit = self.check_queue.wait(load, client, self.max_wait, self.checks.clone().acquire_owned());
        permit.await?.and_then(Result::ok).ok_or(ApiError::Unavailable)
    }

    fn cached_result(&self, cache_key: &CacheKey) -> Option<bool> {
        let Results { correct, wrong } = &mut *self.lock_results();
        let is_fresh = |time: &&mut Instant| time.elapsed() < CACHE_TTL;
        if let Some(last_used_at) = correct.get_mut(cache_key).filter(is_fresh) {
            // A password in use never waits for a check again, also during a flood of wrong passwords.
            *last_used_at = Instant::now();
            return Some(true);
        }
        wrong.get_mut(cache_key).filter(is_fresh).map(|_| false)
    }

    fn cache_result(&self, cache_key: CacheKey, is_correct: bool) {
        let Results { correct, wrong } = &mut *self.lock_results();
        if is_correct {
            correct.retain(|_, since| since.elapsed() < CACHE_TTL);
            correct.insert(cache_key, Instant::now());
        } else {
            if wrong.len() >= CACHED_WRONG_MAX {
                wrong.clear();
            }
            wrong.insert(cache_key, Instant::now());
        }
    }

    fn lock_results(&self) -> MutexGuard<'_, Results> {
        self.results.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the cache key of a password. It covers the stored hashes too, so that a changed password in the database
    /// invalidates the cached entry.
    fn cache_key(&self, user: &User, password: &str) -> CacheKey {
        let mut mac = self.hmac.clone();
        mac.update(&user.id.to_be_bytes());
        for stored in
            [user.password.expose_secret(), user.password_argon2.as_ref().map_or("", |hash| hash.expose_secret())]
        {
            mac.update(stored.as_bytes());
            mac.update(&[0]);
        }
        mac.update(password.as_bytes());
        mac.finalize().into_bytes().into()
    }
}

/// Returns a password's hash as MOR stores it.
pub fn hash_sha1(password: &str) -> String {
    hex::encode(Sha1::digest(password))
}

/// Returns a password's argon2id hash with a random salt; `None` if hashing fails. Hashing is slow by design.
pub fn hash_argon2(password: &str) -> Option<String> {
    Argon2::default().hash_password(password.as_bytes()).map(|hash| hash.to_string()).ok()
}

/// Whether the argon2id hash is the password's. Slow by design: it blocks the thread.
pub fn is_argon2(hash: &SecretString, password: &str) -> bool {
    Argon2::default().verify_password(password.as_bytes(), hash.expose_secret()).is_ok()
}

/// Checks a password that is to be stored: it must not be easy to guess, and clients must send it correctly.
///
/// # Errors
///
/// What is wrong with it.
pub fn check_new(password: &str) -> Result<(), String> {
    if let Some(invisible) = find_invisible(password) {
        return Err(format!("the password has {invisible}: clients could send it incorrectly"));
    }
    if password.chars().count() < PASSWORD_CHARS_MIN {
        return Err(format!("the password has fewer than {PASSWORD_CHARS_MIN} characters"));
    }
    Ok(())
}

fn matches_sha1(stored: &str, password: &str) -> bool {
    let sent = hash_sha1(password);
    stored.to_ascii_lowercase().as_bytes().ct_eq(sent.as_bytes()).into()
}

/// Whether the argon2id hash is the password's.
async fn matches_argon2(permit: OwnedSemaphorePermit, hash: String, password: String) -> Result<bool, ApiError> {
    let verify = move || Argon2::default().verify_password(password.as_bytes(), hash.as_str()).is_ok();
    // A panic: there is no result, so nothing may be cached.
    run_check(permit, verify).await.map_err(|_| ApiError::TransactionFailed)
}

/// Runs a check on a blocking thread: it is slow by design, and must not delay other requests. The check holds the
/// permit, because it goes on when the client disconnects.
async fn run_check<T: Send + 'static>(
    permit: OwnedSemaphorePermit,
    check: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    tokio::task::spawn_blocking(move || {
        let _permit = permit;
        check()
    })
    .await
}
