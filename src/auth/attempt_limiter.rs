//! Whoever is wrong too often about a user is refused for a while. It is counted for each pair of address and user: what one
//! does at its own address shuts out nobody else.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::error::ApiError;

/// Memory for so many pairs is all there is, however many are invented: each pair has its place in one of the sets, and where
/// that is full, whoever was wrong least often makes room.
const SET_COUNT: usize = 4096;
const SLOTS_PER_SET: usize = 4;

/// What is guessed at. Those who type PINs into a shop's form must not be able to stop the shop's sales, so these are counted
/// by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AttemptKind {
    /// A user's password, or the key that makes a hash right.
    Login,
    /// A card's PIN.
    Pin,
}

impl AttemptKind {
    /// In words, for the log.
    pub fn label(self) -> &'static str {
        match self {
            Self::Login => "password or hash",
            Self::Pin => "PIN",
        }
    }
}

/// Counts wrong guesses.
#[derive(Debug)]
pub struct AttemptLimiter {
    failed_attempts_max: u32,
    /// In milliseconds, as all times here.
    lockout_ms: u64,
    start: Instant,
    /// When the last pause will be over: until one begins nobody is looked for.
    last_lockout_end_ms: AtomicU64,
    hasher: RandomState,
    sets: Vec<Mutex<[AttemptCount; SLOTS_PER_SET]>>,
}

/// What is known of a pair, by its mark.
#[derive(Debug, Clone, Copy, Default)]
struct AttemptCount {
    key_hash: u64,
    failures: u32,
    expires_at_ms: u64,
}

impl AttemptLimiter {
    /// Allows `most` wrong guesses (0: any number) within `pause` seconds, then none for as long.
    pub fn new(failed_attempts_max: u32, pause: NonZero<u32>) -> Self {
        let sets = if failed_attempts_max == 0 { 0 } else { SET_COUNT };
        Self {
            failed_attempts_max,
            lockout_ms: u64::from(pause.get()) * 1000,
            start: Instant::now(),
            last_lockout_end_ms: AtomicU64::new(0),
            hasher: RandomState::new(),
            sets: (0..sets).map(|_| Mutex::default()).collect(),
        }
    }

    /// Whether the client may ask about the user, by whichever name it calls them. While it may not, it hears the same of right
    /// guesses as of wrong ones, or the pause would teach it which are right.
    pub fn check(
        &self,
        guess: AttemptKind,
        client: IpAddr,
        user: &str,
        now: impl FnOnce() -> Instant,
    ) -> Result<(), ApiError> {
        let paused_until = self.last_lockout_end_ms.load(Ordering::Relaxed);
        // Until somebody was wrong too often not even the clock is asked.
        if paused_until == 0 {
            return Ok(());
        }
        let now = self.elapsed_ms(now());
        if paused_until <= now {
            return Ok(());
        }
        let mark = self.key_hash(guess, client, user);
        let known = self.lock_set(mark).and_then(|set| set.iter().find(|count| count.key_hash == mark).copied());
        match known {
            Some(count) if count.failures >= self.failed_attempts_max && count.expires_at_ms > now => {
                let seconds = (count.expires_at_ms - now).div_ceil(1000);
                Err(ApiError::TooManyAttempts(u32::try_from(seconds).unwrap_or(u32::MAX)))
            }
            _ => Ok(()),
        }
    }

    /// Takes down that a guess was wrong. `true`: it was one too many, and a pause begins.
    pub fn record_failure(
        &self,
        guess: AttemptKind,
        client: IpAddr,
        user: &str,
        now: impl FnOnce() -> Instant,
    ) -> bool {
        if self.sets.is_empty() {
            return false;
        }
        let now = self.elapsed_ms(now());
        let mark = self.key_hash(guess, client, user);
        let Some(mut set) = self.lock_set(mark) else { return false };
        let place = |count: &&mut AttemptCount| {
            (count.key_hash != mark, count.expires_at_ms > now, count.failures, count.expires_at_ms)
        };
        let Some(count) = set.iter_mut().min_by_key(place) else { return false };
        if count.key_hash != mark || count.expires_at_ms <= now {
            *count = AttemptCount { key_hash: mark, failures: 0, expires_at_ms: now + self.lockout_ms };
        }
        count.failures = count.failures.saturating_add(1);
        let is_last = count.failures == self.failed_attempts_max;
        if is_last {
            count.expires_at_ms = now + self.lockout_ms;
            self.last_lockout_end_ms.fetch_max(count.expires_at_ms, Ordering::Relaxed);
        }
        is_last
    }

    /// Where counts of the mark are kept; `None` where nothing is counted.
    fn lock_set(&self, mark: u64) -> Option<MutexGuard<'_, [AttemptCount; SLOTS_PER_SET]>> {
        let place = mark.checked_rem(u64::try_from(self.sets.len()).ok()?)?;
        let set = self.sets.get(usize::try_from(place).ok()?)?;
        Some(set.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The pair in 64 bits, by a key that nobody knows. Who has one address of IPv6 has a network full of them.
    fn key_hash(&self, guess: AttemptKind, client: IpAddr, user: &str) -> u64 {
        let network = match client {
            IpAddr::V4(address) => u64::from(address.to_bits()),
            IpAddr::V6(address) => u64::try_from(address.to_bits() >> 64).unwrap_or(0),
        };
        // Letter by letter, as the database does it: no other spelling of a name may count for itself.
        let user: String = user.trim_end_matches(' ').chars().filter_map(|char| char.to_lowercase().next()).collect();
        self.hasher.hash_one((guess, client.is_ipv6(), network, user))
    }

    fn elapsed_ms(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.start).as_millis()).unwrap_or(u64::MAX)
    }
}
