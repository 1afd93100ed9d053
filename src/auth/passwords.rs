//! Verification of the parameter `p` (`http.md`, "Admission"): against the argon2id hash, or against MOR's SHA-1 hash
//! as long as the user has no argon2id hash.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use argon2::Argon2;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use hmac::{Hmac, KeyInit, Mac};
use sha1::{Digest, Sha1};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;

use crate::accounts::User;
use crate::config::Secret;
use crate::db::pool::Pool;
use crate::error::ApiError;

/// How long a verified password stays in the cache.
const CACHE_TTL: Duration = Duration::from_secs(300);
/// Maximum number of concurrent checks. Each takes 19 MiB and most of a core for some hundredths of a second.
const CONCURRENT_CHECKS_MAX: usize = 2;

type CacheKey = [u8; 32];

/// Verifies passwords, and caches which were correct. The cache does not contain passwords but their HMACs, with a
/// random key that is created at the start and exists only in memory.
pub struct Passwords {
    hmac_key: [u8; 64],
    verified: Mutex<HashMap<CacheKey, Instant>>,
    permits: Semaphore,
}

impl std::fmt::Debug for Passwords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Passwords")
    }
}

impl Passwords {
    /// Creates the cache with a key from the operating system's random source.
    pub fn new() -> Result<Self, getrandom::Error> {
        let mut hmac_key = [0; 64];
        getrandom::fill(&mut hmac_key)?;
        Ok(Self { hmac_key, verified: Mutex::default(), permits: Semaphore::new(CONCURRENT_CHECKS_MAX) })
    }

    /// Whether `password` is the user's. The first successful check against MOR's SHA-1 hash stores an argon2id hash,
    /// which is used from then on.
    ///
    /// `check_limit` is called after the wait for a permit: the limit of failed attempts may have been reached
    /// meanwhile.
    pub async fn verify(
        &self,
        pool: &Pool,
        user: &User,
        password: &str,
        check_limit: impl FnOnce() -> Result<(), ApiError>,
    ) -> Result<bool, ApiError> {
        let cache_key = self.cache_key(user, password);
        if self.is_cached(&cache_key) {
            return Ok(true);
        }
        let Ok(_permit) = self.permits.acquire().await else { return Ok(false) };
        check_limit()?;
        let is_correct = match &user.password_argon2 {
            Some(hash) => matches_argon2(hash.reveal().to_owned(), password.to_owned()).await,
            None => {
                let is_correct = matches_sha1(user.password.reveal(), password);
                if is_correct {
                    upgrade_hash(pool, user, password.to_owned()).await?;
                }
                is_correct
            }
        };
        if is_correct {
            let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
            verified.retain(|_, since| since.elapsed() < CACHE_TTL);
            verified.insert(cache_key, Instant::now());
        }
        Ok(is_correct)
    }

    fn is_cached(&self, cache_key: &CacheKey) -> bool {
        let verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        verified.get(cache_key).is_some_and(|since| since.elapsed() < CACHE_TTL)
    }

    /// Returns the cache key of a password. It covers the stored hashes too, so that a changed password in the database
    /// invalidates the cached entry.
    fn cache_key(&self, user: &User, password: &str) -> CacheKey {
        let mut mac = Hmac::<Sha256>::new(&self.hmac_key.into());
        mac.update(&user.id.to_be_bytes());
        for stored in [user.password.reveal(), user.password_argon2.as_ref().map_or("", Secret::reveal)] {
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

fn matches_sha1(stored: &str, password: &str) -> bool {
    let sent = hash_sha1(password);
    stored.to_ascii_lowercase().as_bytes().ct_eq(sent.as_bytes()).into()
}

/// Whether the argon2id hash is the password's. Runs on a blocking thread: the check is slow by design, and must not
/// delay other requests.
async fn matches_argon2(hash: String, password: String) -> bool {
    let verify = move || Argon2::default().verify_password(password.as_bytes(), hash.as_str()).is_ok();
    tokio::task::spawn_blocking(verify).await.unwrap_or(false)
}

async fn upgrade_hash(pool: &Pool, user: &User, password: String) -> sqlx::Result<()> {
    if let Ok(Some(hash)) = tokio::task::spawn_blocking(move || hash_argon2(&password)).await {
        let mut connection = pool.acquire().await?;
        // Only if the SHA-1 hash is still the one that was checked: the password may have been changed meanwhile.
        sqlx::query!(
            "update users set password_argon2 = $1 where id = $2 and password = $3 and password_argon2 is null",
            hash,
            user.id,
            user.password.reveal()
        )
        .execute(&mut *connection)
        .await?;
        connection.release_clean();
    }
    Ok(())
}
