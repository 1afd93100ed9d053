//! Results of statements that can take seconds, such as the number of free cards. They run in the background, and a
//! page waits for them only a moment: then it shows the last result with its age, or that there is none yet.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use minijinja::{Value, context};
use serde::Serialize;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::render::to_value;
use crate::back_office::BackOfficeError;
use crate::back_office::doctor::Check;
use crate::back_office::overview::{MailCounts, Refusals};
use crate::back_office::reports::filter::PaymentFilter;
use crate::back_office::reports::period::Period;
use crate::back_office::reports::sales::SalesReport;
use crate::back_office::reports::statement::Statement;
use crate::back_office::reports::stock::StockRow;
use crate::back_office::reports::tax::TaxReport;
use crate::back_office::reports::today::Today;
use crate::back_office::selection::StateCount;

/// How long a page waits.
const WAIT: Duration = Duration::from_millis(50);
/// A result is used again for this multiple of the time that it took: counting again costs at most one percent of a
/// core, and what is counted at once is always current.
const REUSE_FACTOR: u32 = 100;
/// Maximum number of stored results of a kind.
const ENTRIES_MAX: usize = 64;
/// Maximum number of statements that count at the same time. Others wait.
const CONCURRENCY: usize = 2;
/// Maximum number of results of a kind that are counted or wait for it. Others are counted when the page is loaded
/// again.
const RUNNING_MAX: usize = 4;

/// The results of all kinds.
#[derive(Debug)]
#[expect(missing_docs, reason = "described by their types")]
pub struct Counts {
    pub stock: Counted<(), Vec<StockRow>>,
    /// By owner.
    pub today: Counted<Option<i32>, Today>,
    pub sales: Counted<(Period, PaymentFilter), SalesReport>,
    /// By card group, and by API user.
    pub sales_parts: Counted<(Period, PaymentFilter), (SalesReport, SalesReport)>,
    /// By period and owner.
    pub taxes: Counted<(Period, Option<i32>), TaxReport>,
    /// By period and owner.
    pub statements: Counted<(Period, i32), Statement>,
    /// By owner.
    pub mails: Counted<Option<i32>, MailCounts>,
    pub refusals: Counted<(), Refusals>,
    pub checks: Counted<(), Vec<Check>>,
    /// By card group and batch number. `None`: the batch has too many cards to count them.
    pub batches: Counted<(i32, String), Option<Vec<StateCount>>>,
}

impl Counts {
    pub(super) fn new() -> Self {
        let permits = &Arc::new(Semaphore::new(CONCURRENCY));
        Self {
            stock: Counted::new(permits),
            today: Counted::new(permits),
            sales: Counted::new(permits),
            sales_parts: Counted::new(permits),
            taxes: Counted::new(permits),
            statements: Counted::new(permits),
            mails: Counted::new(permits),
            refusals: Counted::new(permits),
            checks: Counted::new(permits),
            batches: Counted::new(permits),
        }
    }
}

/// The last results of a statement, by its parameters.
#[derive(Debug)]
pub struct Counted<Key, T> {
    entries: Entries<Key, T>,
    permits: Arc<Semaphore>,
}

type Entries<Key, T> = Arc<Mutex<HashMap<Key, Entry<T>>>>;

#[derive(Debug)]
struct Entry<T> {
    last: Option<Last<T>>,
    /// The statement runs until the sender is dropped.
    running: Option<watch::Receiver<()>>,
    has_failed: bool,
    used_at: Instant,
}

#[derive(Debug)]
struct Last<T> {
    result: Arc<T>,
    counted_at: Instant,
    expires_at: Instant,
}

/// What a page shows.
#[derive(Debug)]
pub enum Count<T> {
    /// A result, and its age.
    Done(Arc<T>, Duration),
    /// There is no result yet.
    Running,
    /// The last statement failed. The log has the reason.
    Failed,
}

impl<Key, T> Counted<Key, T>
where
    Key: Clone + Eq + Hash + Send + 'static,
    T: Send + Sync + 'static,
{
    fn new(permits: &Arc<Semaphore>) -> Self {
        Self { entries: Arc::default(), permits: permits.clone() }
    }

    /// Returns the result of `query`, or an earlier one if `query` takes long. The query runs in its own task, and
    /// continues when the page is sent.
    pub async fn get<Query>(&self, key: Key, query: impl FnOnce() -> Query) -> Count<T>
    where
        Query: Future<Output = Result<T, BackOfficeError>> + Send + 'static,
    {
        let mut done = {
            let mut entries = self.lock();
            let running = entries.iter().filter(|(other, entry)| **other != key && entry.is_running()).count();
            if running >= RUNNING_MAX {
                return entries.get(&key).map_or(Count::Running, Entry::count);
            }
            make_room(&mut entries, &key);
            let entry = entries.entry(key.clone()).or_insert_with(|| Entry {
                last: None,
                running: None,
                has_failed: false,
                used_at: Instant::now(),
            });
            entry.used_at = Instant::now();
            if entry.last.as_ref().is_some_and(|last| Instant::now() < last.expires_at) {
                return entry.count();
            }
            match entry.running.as_ref().filter(|_| entry.is_running()) {
                Some(running) => running.clone(),
                None => {
                    let (sender, running) = watch::channel(());
                    entry.running = Some(running.clone());
                    tokio::spawn(run(self.entries.clone(), self.permits.clone(), key.clone(), query(), sender));
                    running
                }
            }
        };
        // An error means that the task has ended.
        _ = timeout(WAIT, done.changed()).await;
        self.lock().get(&key).map_or(Count::Running, Entry::count)
    }

    /// Forgets results after a change, also those that are being counted: the next page counts again.
    pub fn forget(&self, is_changed: impl Fn(&Key) -> bool) {
        self.lock().retain(|key, _| !is_changed(key));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Entry<T>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Entry<T> {
    /// Whether its statement runs or waits. A task that has panicked has dropped its sender.
    fn is_running(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.has_changed().is_ok())
    }

    fn count(&self) -> Count<T> {
        match &self.last {
            Some(last) => Count::Done(last.result.clone(), last.counted_at.elapsed()),
            None if self.has_failed => Count::Failed,
            None => Count::Running,
        }
    }
}

async fn run<Key: Eq + Hash, T>(
    entries: Entries<Key, T>,
    permits: Arc<Semaphore>,
    key: Key,
    query: impl Future<Output = Result<T, BackOfficeError>>,
    running: watch::Sender<()>,
) {
    let _permit = permits.acquire().await;
    let started_at = Instant::now();
    let result = query.await;
    let counted_at = Instant::now();
    let mut entries = entries.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(entry) = entries.get_mut(&key) else { return };
    // Of a later statement, after a change.
    if !entry.running.as_ref().is_some_and(|other| other.same_channel(&running.subscribe())) {
        return;
    }
    entry.running = None;
    entry.has_failed = result.is_err();
    match result {
        Ok(result) => {
            let expires_at = counted_at + (counted_at - started_at) * REUSE_FACTOR;
            entry.last = Some(Last { result: Arc::new(result), counted_at, expires_at });
        }
        Err(error) => tracing::error!(%error, "a report for the console failed"),
    }
}

/// Removes the entry that was used least recently, if the new key would be one too many. Entries whose statements run
/// stay: they are fewer than [`ENTRIES_MAX`].
fn make_room<Key: Clone + Eq + Hash, T>(entries: &mut HashMap<Key, Entry<T>>, new: &Key) {
    if entries.len() < ENTRIES_MAX || entries.contains_key(new) {
        return;
    }
    let finished = entries.iter().filter(|(_, entry)| !entry.is_running());
    let oldest = finished.min_by_key(|(_, entry)| entry.used_at).map(|(key, _)| key.clone());
    if let Some(oldest) = oldest {
        entries.remove(&oldest);
    }
}

impl<T: Serialize> Count<T> {
    /// Returns what the macro `state` of `reports.html` shows: state, age and result.
    pub fn to_value(&self) -> Value {
        self.to_value_with(|result| to_value(result))
    }
}

impl<T> Count<T> {
    /// As [`to_value`](Self::to_value), with what the page makes of the result.
    pub fn to_value_with(&self, show: impl FnOnce(&T) -> Value) -> Value {
        match self {
            Self::Done(result, age) => context! { state => "done", age => format_age(*age), result => show(result) },
            Self::Running => context! { state => "running" },
            Self::Failed => context! { state => "failed" },
        }
    }

    /// Whether the page must be loaded again to show a result.
    pub fn is_running(&self) -> bool {
        matches!(self, Self::Running)
    }
}

/// Returns the age of a result in words, empty if it is current.
fn format_age(age: Duration) -> String {
    match age.as_secs() {
        0..=4 => String::new(),
        seconds @ 5..=119 => format!("{seconds} seconds"),
        seconds => format!("{} minutes", seconds / 60),
    }
}
