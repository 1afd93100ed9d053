//! Limit on failed attempts: a client that fails too often for a user is refused for a while. Failures are counted for
//! each pair of client address and user, so a client cannot lock out clients at other addresses.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::num::NonZero;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::ApiError;
use crate::http::client_addr::client_network;
use crate::input::USER_NAME_LEN_MAX;

/// The counters have a fixed size, however many user names an attacker invents. Each pair belongs to one set. In a full
/// set a new pair replaces an expired one, or else the one with the fewest failures.
const SET_COUNT: usize = 4096;
const SLOTS_PER_SET: usize = 4;

/// The secret that an attempt is for. Failed PINs are counted separately: visitors who type wrong PINs into a shop's
/// form must not stop the shop's sales.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AttemptKind {
    /// A user's password or secret key.
    Login,
    /// A card's PIN.
    Pin,
    /// The password or the second factor of a console account.
    Console,
    /// The second factor of a console account, for all clients.
    ConsoleCode,
}

impl AttemptKind {
    /// Returns the secret's name for the log.
    pub fn label(self) -> &'static str {
        match self {
            Self::Login => "password or hash",
            Self::Pin => "PIN",
            Self::Console => "console password or code",
            Self::ConsoleCode => "console code",
        }
    }
}

/// Counts failed attempts.
#[derive(Debug)]
pub struct AttemptLimiter {
    failed_attempts_max: u32,
    lockout: Duration,
    hasher: RandomState,
    sets: Vec<Mutex<[AttemptCount; SLOTS_PER_SET]>>,
}

/// The failures of a pair, identified by the pair's hash.
#[derive(Debug, Clone, Copy, Default)]
struct AttemptCount {
    key_hash: u64,
    failures: u32,
    /// `None`: unused.
    expires_at: Option<Instant>,
}

/// The attempts of a client for a user name are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockedOut {
    /// The remaining time in seconds.
    pub seconds: u32,
}

impl From<LockedOut> for ApiError {
    fn from(LockedOut { seconds }: LockedOut) -> Self {
        Self::TooManyAttempts(seconds)
    }
}

impl AttemptLimiter {
    /// Allows `failed_attempts_max` failures (0: any number) within `lockout_s` seconds, then refuses for `lockout_s`
    /// seconds.
    pub fn new(failed_attempts_max: u32, lockout_s: NonZero<u32>) -> Self {
        let set_count = if failed_attempts_max == 0 { 0 } else { SET_COUNT };
        Self {
            failed_attempts_max,
            lockout: Duration::from_secs(lockout_s.get().into()),
            hasher: RandomState::new(),
            sets: (0..set_count).map(|_| Mutex::default()).collect(),
        }
    }

    /// Checks that the client may make an attempt for the user name. During a lockout all attempts get the same error:
    /// a client must not find out the correct secret meanwhile.
    ///
    /// # Errors
    ///
    /// [`LockedOut`] during a lockout.
    pub fn check(&self, kind: AttemptKind, client: IpAddr, user: &str, now: Instant) -> Result<(), LockedOut> {
        let key_hash = self.key_hash(kind, client, user);
        let count =
            self.lock_set(key_hash).and_then(|set| set.iter().find(|count| count.key_hash == key_hash).copied());
        let lockout_end = count.filter(|count| count.failures >= self.failed_attempts_max);
        let lockout_end = lockout_end.and_then(|count| count.expires_at).unwrap_or(now);
        match lockout_end.saturating_duration_since(now).as_millis().div_ceil(1000) {
            0 => Ok(()),
            seconds => Err(LockedOut { seconds: u32::try_from(seconds).unwrap_or(u32::MAX) }),
        }
    }

    /// Records a failed attempt. Returns `true` if it starts a lockout.
    pub fn record_failure(&self, kind: AttemptKind, client: IpAddr, user: &str, now: Instant) -> bool {
        let key_hash = self.key_hash(kind, client, user);
        let Some(mut set) = self.lock_set(key_hash) else { return false };
        // The pair's own counter, else an expired one, else the one with the fewest failures.
        let priority = |count: &&mut AttemptCount| {
            (count.key_hash != key_hash, count.expires_at > Some(now), count.failures, count.expires_at)
        };
        let Some(count) = set.iter_mut().min_by_key(priority) else { return false };
        if count.key_hash != key_hash || count.expires_at <= Some(now) {
            *count = AttemptCount { key_hash, failures: 0, expires_at: Some(now + self.lockout) };
        }
        count.failures = count.failures.saturating_add(1);
        let starts_lockout = count.failures == self.failed_attempts_max;
        if starts_lockout {
            count.expires_at = Some(now + self.lockout);
        }
        starts_lockout
    }

    /// Locks the set that the hash belongs to. `None`: there is no limit.
    fn lock_set(&self, key_hash: u64) -> Option<MutexGuard<'_, [AttemptCount; SLOTS_PER_SET]>> {
        let index = key_hash.checked_rem(u64::try_from(self.sets.len()).ok()?)?;
        let set = self.sets.get(usize::try_from(index).ok()?)?;
        Some(set.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Hashes the pair to 64 bits with a random key.
    fn key_hash(&self, kind: AttemptKind, client: IpAddr, user: &str) -> u64 {
        // Lower case character by character, as in the database: all spellings of a name must share a counter.
        // Names longer than a user's can be share the counter of their beginning.
        let user = user.trim_end_matches(' ').chars().take(USER_NAME_LEN_MAX + 1);
        let user: String = user.filter_map(|char| char.to_lowercase().next()).collect();
        self.hasher.hash_one((kind, client_network(client), user))
    }
}
