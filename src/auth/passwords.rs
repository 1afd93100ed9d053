//! The parameter `p`: checking it against what MOR stores (SHA-1) or, once it was right, against something better
//! (`http.md`, "Admission").

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

/// How long a password that was right is known to be.
const CACHE_TTL: Duration = Duration::from_secs(300);
/// Checks that may run at once; each takes 19 MiB and a good part of a core for some hundredths of a second.
const CONCURRENT_CHECKS_MAX: usize = 2;

type CacheKey = [u8; 32];

/// Checks passwords, and remembers for a while which were right: not the passwords, but marks made from them with a key
/// that is drawn at the start and never leaves.
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
    /// With a key from the operating system's random source.
    pub fn new() -> Result<Self, getrandom::Error> {
        let mut key = [0; 64];
        getrandom::fill(&mut key)?;
        Ok(Self { hmac_key: key, verified: Mutex::default(), permits: Semaphore::new(CONCURRENT_CHECKS_MAX) })
    }

    /// Whether `password` is the user's. The first right answer against MOR's SHA-1 writes an argon2id hash, which counts
    /// from then on. A check that had to wait for its turn asks first whether it `may_go_on`.
    pub async fn verify(
        &self,
        pool: &Pool,
        user: &User,
        password: &str,
        may_go_on: impl FnOnce() -> Result<(), ApiError>,
    ) -> Result<bool, ApiError> {
        let mark = self.cache_key(user, password);
        if self.is_cached(&mark) {
            return Ok(true);
        }
        let Ok(_turn) = self.permits.acquire().await else { return Ok(false) };
        may_go_on()?;
        let right = match &user.password_argon2 {
            Some(hash) => matches_argon2(hash.reveal().to_owned(), password.to_owned()).await,
            None => {
                let right = matches_sha1(user.password.reveal(), password);
                if right {
                    upgrade_hash(pool, user, password.to_owned()).await?;
                }
                right
            }
        };
        if right {
            let mut known = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
            known.retain(|_, since| since.elapsed() < CACHE_TTL);
            known.insert(mark, Instant::now());
        }
        Ok(right)
    }

    fn is_cached(&self, mark: &CacheKey) -> bool {
        let known = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(mark).is_some_and(|since| since.elapsed() < CACHE_TTL)
    }

    /// Made from what is stored as well, so that a new password in the database makes the old mark worthless.
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

/// A password as MOR stores it.
pub fn hash_sha1(password: &str) -> String {
    hex::encode(Sha1::digest(password))
}

/// A password as it should be stored, with a salt of its own. Slow by design.
pub fn hash_argon2(password: &str) -> Option<String> {
    Argon2::default().hash_password(password.as_bytes()).map(|hash| hash.to_string()).ok()
}

fn matches_sha1(stored: &str, password: &str) -> bool {
    let given = hash_sha1(password);
    stored.to_ascii_lowercase().as_bytes().ct_eq(given.as_bytes()).into()
}

/// On a thread of its own: it is slow by design, and other requests go on meanwhile.
async fn matches_argon2(hash: String, password: String) -> bool {
    let check = move || Argon2::default().verify_password(password.as_bytes(), hash.as_str()).is_ok();
    tokio::task::spawn_blocking(check).await.unwrap_or(false)
}

async fn upgrade_hash(pool: &Pool, user: &User, password: String) -> sqlx::Result<()> {
    if let Ok(Some(hash)) = tokio::task::spawn_blocking(move || hash_argon2(&password)).await {
        let mut connection = pool.acquire().await?;
        // Only beside the very hash that was checked: somebody may have set another password meanwhile.
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
