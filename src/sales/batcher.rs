//! Batching of sales. A caller's sales run at once, each in a statement of its own, while fewer than `sale_concurrency`
//! statements run. Further sales wait in a queue. When a statement ends, one statement makes as many of the queued
//! sales as fit, and costs little more than a single sale. While a statement makes several sales, half as many
//! statements may run: more sales queue for the next batch, and the other processors stay free for requests. Each sale
//! succeeds or fails as if it were made alone, with one exception: a lost connection leaves the outcome of all sales of
//! a batch unknown. No sale waits longer than `max_wait` to start.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::oneshot::{self, Receiver, Sender};
use tokio::time::timeout;

use super::order::SaleOrder;
use super::statement::{SoldCard, SoldCardRow, sell_next};
use crate::db::pool::Pool;
use crate::error::{ApiError, is_lock_timeout};
use crate::idempotency::key::is_duplicate_key;
use crate::locks::KeyedSemaphores;
use crate::store::stock::is_card_already_paid;

/// Maximum number of cards that one statement sells: all clients of the batch wait until it ends.
const BATCH_CARDS_MAX: u32 = 32;
/// Maximum number of cards of a batched sale. Larger sales run alone: they would fill most of a batch.
const ORDER_CARDS_MAX: u32 = BATCH_CARDS_MAX / 4;

/// How long sales of a group, or with an idempotency key, are not batched after one of them failed: it would make each
/// batch fail.
const ISOLATION: Duration = Duration::from_secs(60);

/// Decides for each sale whether it runs alone or in a batch, and runs the batches.
#[derive(Debug, Clone)]
pub struct SaleBatcher(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    pool: Pool,
    /// Maximum number of statements of one caller that run at once before its sales are queued.
    sale_concurrency: usize,
    max_wait: Duration,
    queues: Mutex<Queues>,
    /// Permits of sales that bypass the batches.
    unbatched_permits: KeyedSemaphores<Unbatched>,
}

#[derive(Debug, Default)]
struct Queues {
    /// By the caller's id; only callers with a running statement have an entry.
    by_user: HashMap<i32, Queue>,
    /// The number of sales that have been queued so far.
    next_ticket: u64,
    /// What made sales fail, with the time until which such sales are not batched.
    isolated: HashMap<Isolated, Instant>,
}

/// Sales that are not batched. The first field is the caller's id.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Isolated {
    Group(i32, i32),
    Key(i32, String),
}

/// Sales outside batches that share permits. The first field is the caller's id.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Unbatched {
    Small(i32),
    /// Too large for a batch.
    Large(i32),
    /// With the group.
    WaitingForCards(i32, i32),
}

#[derive(Debug, Default)]
struct Queue {
    running_statements: usize,
    /// Sales that the running statements make.
    running_sales: usize,
    queued: VecDeque<QueueEntry>,
}

#[derive(Debug)]
struct QueueEntry {
    ticket: u64,
    order: SaleOrder,
    outcome_sender: Sender<BatchOutcome>,
}

/// Whether a sale runs immediately or waits in the queue.
#[derive(Debug)]
pub enum Dispatch {
    /// The sale runs alone, while the caller of `submit` holds the permit.
    Immediate(StatementPermit),
    /// The sale waits for a batch.
    Queued(QueuedSale),
}

/// A sale that waits in the queue or runs in a batch.
#[derive(Debug)]
pub struct QueuedSale {
    batcher: SaleBatcher,
    user_id: i32,
    ticket: u64,
    outcome_receiver: Receiver<BatchOutcome>,
}

impl QueuedSale {
    /// Waits for the outcome of the sale. A sale that does not start within `max_wait`, because the running statements
    /// are slow, leaves the queue to be made alone. A sale that has started is awaited without a time limit here.
    pub async fn wait_for_outcome(mut self) -> BatchOutcome {
        let outcome = match timeout(self.batcher.0.max_wait, &mut self.outcome_receiver).await {
            Ok(outcome) => outcome,
            Err(_) if self.batcher.remove_queued(self.user_id, self.ticket) => return BatchOutcome::RetryAlone,
            Err(_) => (&mut self.outcome_receiver).await,
        };
        // The sender is dropped without an outcome if the task of the batch panicked or was aborted.
        outcome.unwrap_or(BatchOutcome::Failed(ApiError::CommitUnknown))
    }
}

/// Removes a sale that has not started from the queue, and releases the lock of its key: the client may repeat the
/// request at once.
impl Drop for QueuedSale {
    fn drop(&mut self) {
        self.batcher.remove_queued(self.user_id, self.ticket);
    }
}

/// The outcome of a queued sale.
#[derive(Debug)]
pub enum BatchOutcome {
    /// The cards: at least one.
    Sold(Vec<SoldCard>),
    /// Nothing was changed: fewer cards than ordered were free, or the order's key is known.
    NothingSold,
    /// Nothing was changed, possibly because of another sale of the batch: the sale must be made alone.
    RetryAlone,
    /// No connection was available, or the connection was lost.
    Failed(ApiError),
}

impl SaleBatcher {
    /// Creates a batcher that runs up to `sale_concurrency` statements of a caller at once before it queues sales, and
    /// half as many while one of them makes several sales. No sale waits longer than `max_wait` to start.
    pub fn new(pool: Pool, sale_concurrency: usize, max_wait: Duration) -> Self {
        Self(Arc::new(Shared {
            pool,
            sale_concurrency,
            max_wait,
            queues: Mutex::default(),
            unbatched_permits: KeyedSemaphores::new(sale_concurrency),
        }))
    }

    /// Whether a sale of this number of the group's cards may be submitted to a batch. It may not if it would fill most
    /// of a batch, or if a sale of the group or with the key failed a short time ago.
    pub fn is_batchable(&self, order: &SaleOrder) -> bool {
        if order.quantity > ORDER_CARDS_MAX {
            return false;
        }
        let queues = self.lock_queues();
        if queues.isolated.is_empty() {
            return true;
        }
        let now = Instant::now();
        let is_isolated = |cause| queues.isolated.get(&cause).is_some_and(|until| *until > now);
        !is_isolated(Isolated::group(order)) && !Isolated::key(order).is_some_and(is_isolated)
    }

    /// Keeps the caller's sales of a group out of batches for a minute, because one of them failed: the same card or
    /// setting would make each batch fail.
    pub fn isolate_group(&self, order: &SaleOrder) {
        self.isolate(Isolated::group(order));
    }

    /// Keeps the caller's sales with a key out of batches for a minute, because another server uses the key: each batch
    /// would wait for that server, and fail.
    pub fn isolate_key(&self, order: &SaleOrder) {
        Isolated::key(order).into_iter().for_each(|key| self.isolate(key));
    }

    fn isolate(&self, cause: Isolated) {
        let now = Instant::now();
        let isolated = &mut self.lock_queues().isolated;
        isolated.retain(|_, until| *until > now);
        isolated.insert(cause, now + ISOLATION);
    }

    /// Waits for a permit to sell this many cards outside batches. Each caller has as many as it may run statements at
    /// once, so that such sales leave connections and processors to the others. Large sales have permits of their own.
    pub async fn acquire_unbatched(&self, user_id: i32, quantity: u32) -> OwnedSemaphorePermit {
        let is_large = quantity > ORDER_CARDS_MAX;
        let sale = if is_large { Unbatched::Large(user_id) } else { Unbatched::Small(user_id) };
        self.0.unbatched_permits.acquire(sale).await
    }

    /// Waits for a permit to wait for the locked cards of a group. Each caller has as many for each group as for sales
    /// outside batches: the caller's other sales, and those of other groups, do not wait for them.
    pub async fn acquire_wait_for_cards(&self, user_id: i32, group_id: i32) -> OwnedSemaphorePermit {
        self.0.unbatched_permits.acquire(Unbatched::WaitingForCards(user_id, group_id)).await
    }

    /// Submits an order.
    pub fn submit(&self, order: &SaleOrder) -> Dispatch {
        let user_id = order.terms.user_id;
        let mut queues = self.lock_queues();
        let Queues { by_user, next_ticket, .. } = &mut *queues;
        let queue = by_user.entry(user_id).or_default();
        if queue.has_capacity(self.0.sale_concurrency) {
            return Dispatch::Immediate(queue.issue_permit(self, user_id, 1));
        }
        let (outcome_sender, outcome_receiver) = oneshot::channel();
        let ticket = *next_ticket;
        *next_ticket += 1;
        queue.queued.push_back(QueueEntry { ticket, order: order.clone(), outcome_sender });
        Dispatch::Queued(QueuedSale { batcher: self.clone(), user_id, ticket, outcome_receiver })
    }

    /// Returns how many sales wait in the queues.
    pub fn queued_sales(&self) -> usize {
        self.lock_queues().by_user.values().map(|queue| queue.queued.len()).sum()
    }

    /// Removes a sale from the queue. Returns whether it was still queued.
    fn remove_queued(&self, user_id: i32, ticket: u64) -> bool {
        let mut queues = self.lock_queues();
        let Some(Queue { queued, .. }) = queues.by_user.get_mut(&user_id) else { return false };
        // The queue is sorted by ticket.
        queued
            .binary_search_by_key(&ticket, |entry| entry.ticket)
            .is_ok_and(|position| queued.remove(position).is_some())
    }

    fn finish_statement(&self, user_id: i32, sale_count: usize) {
        if let Some(queue) = self.lock_queues().by_user.get_mut(&user_id) {
            queue.running_statements -= 1;
            queue.running_sales -= sale_count;
        }
    }

    /// Returns the next batch and its permit if sales are queued and a statement may run.
    fn next_batch(&self, user_id: i32) -> Option<(StatementPermit, Vec<QueueEntry>)> {
        let mut queues = self.lock_queues();
        let queue = queues.by_user.get_mut(&user_id)?;
        let batch = if queue.has_capacity(self.0.sale_concurrency) { queue.pop_batch() } else { Vec::new() };
        if !batch.is_empty() {
            return Some((queue.issue_permit(self, user_id, batch.len()), batch));
        }
        if queue.running_statements == 0 {
            queues.by_user.remove(&user_id);
        }
        None
    }

    fn lock_queues(&self) -> MutexGuard<'_, Queues> {
        self.0.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to run one statement. Dropping it starts the next batch of queued sales.
#[derive(Debug)]
pub struct StatementPermit {
    batcher: SaleBatcher,
    user_id: i32,
    /// Sales that the statement makes.
    sale_count: usize,
}

impl Drop for StatementPermit {
    fn drop(&mut self) {
        self.batcher.finish_statement(self.user_id, self.sale_count);
        // Without a runtime, at the end of the process, no sale waits any more.
        let Ok(runtime) = Handle::try_current() else { return };
        // Sales with different terms run in parallel statements.
        while let Some((permit, batch)) = self.batcher.next_batch(self.user_id) {
            runtime.spawn(run_batch(permit, batch));
        }
    }
}

impl Queue {
    /// Whether one more statement may run; `limit` applies while each running statement makes a single sale.
    fn has_capacity(&self, limit: usize) -> bool {
        let only_single_sales = self.running_sales == self.running_statements;
        self.running_statements < if only_single_sales { limit } else { limit.div_ceil(2) }
    }

    fn issue_permit(&mut self, batcher: &SaleBatcher, user_id: i32, sale_count: usize) -> StatementPermit {
        self.running_statements += 1;
        self.running_sales += sale_count;
        StatementPermit { batcher: batcher.clone(), user_id, sale_count }
    }

    /// Removes the oldest queued sale, and further ones with the same terms in the order of the queue, up to
    /// [`BATCH_CARDS_MAX`] cards. The others keep their order.
    fn pop_batch(&mut self) -> Vec<QueueEntry> {
        let (mut cards, mut batch, mut skipped) = (0, Vec::<QueueEntry>::new(), Vec::new());
        while cards < BATCH_CARDS_MAX
            && let Some(next) = self.queued.pop_front()
        {
            let same_terms = batch.first().is_none_or(|first| first.order.terms == next.order.terms);
            if same_terms && cards + next.order.quantity <= BATCH_CARDS_MAX {
                cards += next.order.quantity;
                batch.push(next);
            } else {
                skipped.push(next);
            }
        }
        skipped.into_iter().rev().for_each(|entry| self.queued.push_front(entry));
        batch
    }
}

/// Makes the sales of a batch, and sends each its outcome.
async fn run_batch(permit: StatementPermit, batch: Vec<QueueEntry>) {
    let result = execute(&permit.batcher.0.pool, &batch).await;
    // Released before the outcomes are sent: the next batch needn't wait for that.
    drop(permit);
    match result {
        Ok(cards) => distribute(cards, batch),
        Err(Some(error)) => batch.into_iter().for_each(|entry| entry.reply(BatchOutcome::Failed(error.clone()))),
        Err(None) => batch.into_iter().for_each(|entry| entry.reply(BatchOutcome::RetryAlone)),
    }
}

/// Runs the statement of a batch and returns the sold cards.
///
/// # Errors
///
/// The error that all clients receive; `None` if each sale must be retried alone.
async fn execute(pool: &Pool, batch: &[QueueEntry]) -> Result<Vec<SoldCardRow>, Option<ApiError>> {
    let orders: Vec<&SaleOrder> = batch.iter().map(|entry| &entry.order).collect();
    let mut connection = pool.acquire().await.map_err(|error| Some(ApiError::from(error)))?;
    // A client that disconnects cancels its own request, but a batch has no client: only the limit ends a hung one.
    match pool.limit_commit(sell_next(&mut connection, &orders)).await {
        Ok(cards) => {
            connection.release_clean();
            Ok(cards)
        }
        // Another server used a key of the batch at the same time, or a card in stock has a sale
        // payment. The server does not know which sale is affected, so each is retried alone. The error is not logged.
        Err(error) if is_duplicate_key(&error) || is_lock_timeout(&error) || is_card_already_paid(&error) => Err(None),
        Err(error) => Err(Some(ApiError::from_commit_error(error)).filter(|error| *error == ApiError::CommitUnknown)),
    }
}

/// Sends each sale its cards. The rows are in the order of the batch.
fn distribute(rows: Vec<SoldCardRow>, batch: Vec<QueueEntry>) {
    let mut rows = rows.into_iter().peekable();
    for (order_number, entry) in (1..).zip(batch) {
        let own = std::iter::from_fn(|| rows.next_if(|row| row.order_number == order_number));
        let cards: Vec<SoldCard> = own.map(SoldCard::from).collect();
        entry.reply(if cards.is_empty() { BatchOutcome::NothingSold } else { BatchOutcome::Sold(cards) });
    }
}

impl Isolated {
    fn group(order: &SaleOrder) -> Self {
        Self::Group(order.terms.user_id, order.group_id)
    }

    fn key(order: &SaleOrder) -> Option<Self> {
        order.key.as_ref().map(|key| Self::Key(order.terms.user_id, key.key.clone()))
    }
}

impl QueueEntry {
    /// Sends the outcome. If the client has disconnected, its sale is still made, as when a reply is lost.
    fn reply(self, outcome: BatchOutcome) {
        let _ = self.outcome_sender.send(outcome);
    }
}
