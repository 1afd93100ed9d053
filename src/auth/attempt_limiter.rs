//! Whoever is wrong too often about a user is refused for a while. It is counted for each pair of address and user: what one
//! does at its own address shuts out nobody else.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::error::Fault;

/// Memory for so many pairs is all there is, however many are invented: each pair has its place in one of the sets, and where
/// that is full, whoever was wrong least often makes room.
const SETS: usize = 4096;
const SET: usize = 4;

/// What is guessed at. Those who type PINs into a shop's form must not be able to stop the shop's sales, so these are counted
/// by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Guess {
    /// A user's password, or the key that makes a hash right.
    Login,
    /// A card's PIN.
    Pin,
}

impl Guess {
    /// In words, for the log.
    pub fn what(self) -> &'static str {
        match self {
            Self::Login => "password or hash",
            Self::Pin => "PIN",
        }
    }
}

/// Counts wrong guesses.
#[derive(Debug)]
pub struct Guessing {
    most: u32,
    /// In milliseconds, as all times here.
    pause: u64,
    start: Instant,
    /// When the last pause will be over: until one begins nobody is looked for.
    paused_until: AtomicU64,
    hasher: RandomState,
    sets: Vec<Mutex<[Count; SET]>>,
}

/// What is known of a pair, by its mark.
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    mark: u64,
    wrong: u32,
    until: u64,
}

impl Guessing {
    /// Allows `most` wrong guesses (0: any number) within `pause` seconds, then none for as long.
    pub fn new(most: u32, pause: NonZero<u32>) -> Self {
        let sets = if most == 0 { 0 } else { SETS };
        Self {
            most,
            pause: u64::from(pause.get()) * 1000,
            start: Instant::now(),
            paused_until: AtomicU64::new(0),
            hasher: RandomState::new(),
            sets: (0..sets).map(|_| Mutex::default()).collect(),
        }
    }

    /// Whether the client may ask about the user, by whichever name it calls them. While it may not, it hears the same of right
    /// guesses as of wrong ones, or the pause would teach it which are right.
    pub fn check(&self, guess: Guess, client: IpAddr, user: &str, now: impl FnOnce() -> Instant) -> Result<(), Fault> {
        let paused_until = self.paused_until.load(Ordering::Relaxed);
        // Until somebody was wrong too often not even the clock is asked.
        if paused_until == 0 {
            return Ok(());
        }
        let now = self.milliseconds(now());
        if paused_until <= now {
            return Ok(());
        }
        let mark = self.mark(guess, client, user);
        let known = self.set(mark).and_then(|set| set.iter().find(|count| count.mark == mark).copied());
        match known {
            Some(count) if count.wrong >= self.most && count.until > now => {
                let seconds = (count.until - now).div_ceil(1000);
                Err(Fault::TooManyGuesses(u32::try_from(seconds).unwrap_or(u32::MAX)))
            }
            _ => Ok(()),
        }
    }

    /// Takes down that a guess was wrong. `true`: it was one too many, and a pause begins.
    pub fn was_wrong(&self, guess: Guess, client: IpAddr, user: &str, now: impl FnOnce() -> Instant) -> bool {
        if self.sets.is_empty() {
            return false;
        }
        let now = self.milliseconds(now());
        let mark = self.mark(guess, client, user);
        let Some(mut set) = self.set(mark) else { return false };
        let place = |count: &&mut Count| (count.mark != mark, count.until > now, count.wrong, count.until);
        let Some(count) = set.iter_mut().min_by_key(place) else { return false };
        if count.mark != mark || count.until <= now {
            *count = Count { mark, wrong: 0, until: now + self.pause };
        }
        count.wrong = count.wrong.saturating_add(1);
        let is_last = count.wrong == self.most;
        if is_last {
            count.until = now + self.pause;
            self.paused_until.fetch_max(count.until, Ordering::Relaxed);
        }
        is_last
    }

    /// Where counts of the mark are kept; `None` where nothing is counted.
    fn set(&self, mark: u64) -> Option<MutexGuard<'_, [Count; SET]>> {
        let place = mark.checked_rem(u64::try_from(self.sets.len()).ok()?)?;
        let set = self.sets.get(usize::try_from(place).ok()?)?;
        Some(set.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The pair in 64 bits, by a key that nobody knows. Who has one address of IPv6 has a network full of them.
    fn mark(&self, guess: Guess, client: IpAddr, user: &str) -> u64 {
        let network = match client {
            IpAddr::V4(address) => u64::from(address.to_bits()),
            IpAddr::V6(address) => u64::try_from(address.to_bits() >> 64).unwrap_or(0),
        };
        // Letter by letter, as the database does it: no other spelling of a name may count for itself.
        let user: String = user.trim_end_matches(' ').chars().filter_map(|char| char.to_lowercase().next()).collect();
        self.hasher.hash_one((guess, client.is_ipv6(), network, user))
    }

    fn milliseconds(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.start).as_millis()).unwrap_or(u64::MAX)
    }
}
