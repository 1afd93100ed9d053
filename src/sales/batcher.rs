//! Sales that go together. As many of a caller's as keep the processors busy are made each by itself, at once; those that come meanwhile
//! wait for one of these to end, and are then made in one statement, which costs little more than a single sale. While statements sell for
//! several, half as many run: the more wait, the more go together, and the other processors have enough to do with requests. Each sale
//! succeeds or fails as if it were alone, but that a lost connection leaves all of them in doubt; and none waits long to be begun.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bigdecimal::BigDecimal;
use tokio::runtime::Handle;
use tokio::sync::oneshot::{self, Receiver, Sender};
use tokio::time::timeout;

use super::batch_statement::{BatchInput, SoldCardRow, sell_batch};
use super::statement::SoldCard;
use crate::db::pool::Pool;
use crate::error::ApiError;
use crate::idempotency::{self, IdempotencyKey};

/// More cards are not sold by one statement: those who wait for it want an answer.
const BATCH_CARDS_MAX: u32 = 32;
/// Who wants more goes alone: few others would find room beside him.
pub const ORDER_CARDS_MAX: u32 = BATCH_CARDS_MAX / 4;
/// Longer than the database lets any statement run: when this is over the connection is dead.
const STATEMENT_DEADLINE: Duration = Duration::from_secs(150);

/// Where sales wait for each other.
#[derive(Debug, Clone)]
pub struct SaleBatcher(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    pool: Pool,
    /// Of one caller's, before others wait.
    sale_concurrency: usize,
    max_wait: Duration,
    queues: Mutex<Queues>,
}

#[derive(Debug, Default)]
struct Queues {
    /// By the caller's id, where something of his runs.
    by_user: HashMap<i32, Queue>,
    /// How many have waited until now.
    next_ticket: u64,
}

#[derive(Debug, Default)]
struct Queue {
    /// Statements.
    running_statements: usize,
    /// The sales that these make.
    running_sales: usize,
    queued: VecDeque<QueueEntry>,
}

#[derive(Debug)]
struct QueueEntry {
    ticket: u64,
    order: SaleOrder,
    outcome_sender: Sender<BatchOutcome>,
}

/// The next free cards of a group, without order rows.
#[derive(Debug)]
pub struct SaleOrder {
    /// The group.
    pub group_id: i32,
    /// How many, up to [`MOST_OF_ONE`].
    pub quantity: u32,
    /// Where the reply is kept, if somewhere. Once this is begun, whoever sends the key again waits for it, even if its client has gone away.
    pub key: Option<Arc<IdempotencyKey>>,
    /// Who sells, and how it is paid.
    pub batch_key: BatchKey,
}

/// What sales that go together have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "as in `Sale` and `Terms`")]
pub struct BatchKey {
    pub user_id: i32,
    pub owner_id: i32,
    pub currency: String,
    pub rate: BigDecimal,
}

/// How a sale is made.
#[derive(Debug)]
pub enum Dispatch {
    /// By itself, while this is held.
    Immediate(StatementPermit),
    /// With others.
    Queued(QueuedSale),
}

/// The others, while they are waited for.
#[derive(Debug)]
pub struct QueuedSale {
    batcher: SaleBatcher,
    user_id: i32,
    ticket: u64,
    outcome_receiver: Receiver<BatchOutcome>,
}

impl QueuedSale {
    /// What comes of it. Where it isn't begun soon, because what runs is held up, it is left alone; once begun it is waited for.
    pub async fn wait_for_outcome(mut self) -> BatchOutcome {
        let told = match timeout(self.batcher.0.max_wait, &mut self.outcome_receiver).await {
            Ok(told) => told,
            Err(_) if self.batcher.remove_queued(self.user_id, self.ticket) => return BatchOutcome::RetryAlone,
            Err(_) => (&mut self.outcome_receiver).await,
        };
        // Whoever was about to tell was broken off.
        told.unwrap_or(BatchOutcome::Failed(ApiError::CommitUnknown))
    }
}

/// Who goes away before it is begun leaves nothing behind, his key neither: he may ask again at once.
impl Drop for QueuedSale {
    fn drop(&mut self) {
        self.batcher.remove_queued(self.user_id, self.ticket);
    }
}

/// What came of a sale that went with others.
#[derive(Debug)]
pub enum BatchOutcome {
    /// The cards; none: fewer were free than asked for.
    Sold(Vec<SoldCard>),
    /// Nothing was changed, and one of the others may be the reason: it is to be made alone.
    RetryAlone,
    /// The database was away, or was lost.
    Failed(ApiError),
}

impl SaleBatcher {
    /// At most so many statements of a caller's at once before his sales go together, then half as many; no sale waits longer than `patience`
    /// to be begun.
    pub fn new(pool: Pool, most: usize, patience: Duration) -> Self {
        Self(Arc::new(Shared { pool, sale_concurrency: most, max_wait: patience, queues: Mutex::default() }))
    }

    /// Begins a sale of a caller's.
    pub fn submit(&self, caller: i32, order: impl FnOnce() -> SaleOrder) -> Dispatch {
        let mut queues = self.lock_queues();
        let Queues { by_user: of, next_ticket: tickets } = &mut *queues;
        let queue = of.entry(caller).or_default();
        if queue.has_capacity(self.0.sale_concurrency) {
            return Dispatch::Immediate(queue.issue_permit(self, caller, 1));
        }
        let (answer, told) = oneshot::channel();
        let ticket = *tickets;
        *tickets += 1;
        queue.queued.push_back(QueueEntry { ticket, order: order(), outcome_sender: answer });
        Dispatch::Queued(QueuedSale { batcher: self.clone(), user_id: caller, ticket, outcome_receiver: told })
    }

    /// How many wait for a statement.
    pub fn queued_sales(&self) -> usize {
        self.lock_queues().by_user.values().map(|queue| queue.queued.len()).sum()
    }

    /// Whether who has the ticket was still waiting, and doesn't any more.
    fn remove_queued(&self, caller: i32, ticket: u64) -> bool {
        let mut queues = self.lock_queues();
        let Some(Queue { queued: waiting, .. }) = queues.by_user.get_mut(&caller) else { return false };
        // Tickets stand in their order.
        waiting
            .binary_search_by_key(&ticket, |waiting| waiting.ticket)
            .is_ok_and(|place| waiting.remove(place).is_some())
    }

    /// A statement that made so many sales has ended.
    fn finish_statement(&self, caller: i32, sales: usize) {
        if let Some(queue) = self.lock_queues().by_user.get_mut(&caller) {
            queue.running_statements -= 1;
            queue.running_sales -= sales;
        }
    }

    /// Those who are next, where there is somebody and room for them.
    fn next_batch(&self, caller: i32) -> Option<(StatementPermit, Vec<QueueEntry>)> {
        let mut queues = self.lock_queues();
        let queue = queues.by_user.get_mut(&caller)?;
        let batch = if queue.has_capacity(self.0.sale_concurrency) { queue.pop_batch() } else { Vec::new() };
        if !batch.is_empty() {
            return Some((queue.issue_permit(self, caller, batch.len()), batch));
        }
        if queue.running_statements == 0 {
            queues.by_user.remove(&caller);
        }
        None
    }

    fn lock_queues(&self) -> MutexGuard<'_, Queues> {
        self.0.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of the statements that run. When it has ended, those who wait are next.
#[derive(Debug)]
pub struct StatementPermit {
    batcher: SaleBatcher,
    user_id: i32,
    /// So many it makes.
    sale_count: usize,
}

impl Drop for StatementPermit {
    fn drop(&mut self) {
        self.batcher.finish_statement(self.user_id, self.sale_count);
        // Without a runtime, at the very end, nobody waits any more.
        let Ok(runtime) = Handle::try_current() else { return };
        // Those who are too different to go together go beside each other.
        while let Some((place, batch)) = self.batcher.next_batch(self.user_id) {
            runtime.spawn(run_batch(place, batch));
        }
    }
}

impl Queue {
    /// Whether one more may run, beside so many at most.
    fn has_capacity(&self, most: usize) -> bool {
        let each_for_one = self.running_sales == self.running_statements;
        self.running_statements < if each_for_one { most } else { most.div_ceil(2) }
    }

    fn issue_permit(&mut self, together: &SaleBatcher, caller: i32, sales: usize) -> StatementPermit {
        self.running_statements += 1;
        self.running_sales += sales;
        StatementPermit { batcher: together.clone(), user_id: caller, sale_count: sales }
    }

    /// Those who wait longest and go together.
    fn pop_batch(&mut self) -> Vec<QueueEntry> {
        let (mut cards, mut batch, mut others) = (0, Vec::<QueueEntry>::new(), Vec::new());
        while cards < BATCH_CARDS_MAX
            && let Some(next) = self.queued.pop_front()
        {
            let is_alike = batch.first().is_none_or(|first| first.order.batch_key == next.order.batch_key);
            if is_alike && cards + next.order.quantity <= BATCH_CARDS_MAX {
                cards += next.order.quantity;
                batch.push(next);
            } else {
                others.push(next);
            }
        }
        others.into_iter().rev().for_each(|other| self.queued.push_front(other));
        batch
    }
}

/// Makes sales together, and tells each what came of it.
async fn run_batch(place: StatementPermit, batch: Vec<QueueEntry>) {
    let sold = execute(&place.batcher.0.pool, &batch).await;
    // Before anybody is told: who is served next needn't wait for it.
    drop(place);
    match sold {
        Ok(sold) => distribute(sold, batch),
        Err(Some(fault)) => batch.into_iter().for_each(|waiting| waiting.reply(BatchOutcome::Failed(fault.clone()))),
        Err(None) => batch.into_iter().for_each(|waiting| waiting.reply(BatchOutcome::RetryAlone)),
    }
}

/// The cards, or what everybody hears; `None`: each should try it alone.
async fn execute(pool: &Pool, batch: &[QueueEntry]) -> Result<Vec<SoldCardRow>, Option<ApiError>> {
    let mut orders = BatchInput::default();
    orders.extend(batch.iter().map(|waiting| &waiting.order));
    let mut connection = pool.acquire().await.map_err(|error| Some(ApiError::from(error)))?;
    // A request's client ends what hangs by going away; here there is none.
    match timeout(STATEMENT_DEADLINE, sell_batch(&mut connection, &batch[0].order.batch_key, &orders)).await {
        Ok(Ok(sold)) => {
            connection.release_clean();
            Ok(sold)
        }
        // Whoever sent a key again, or is at it elsewhere, finds out alone; it isn't worth a line in the log.
        Ok(Err(error)) if idempotency::is_duplicate_key(&error) || idempotency::is_lock_timeout(&error) => Err(None),
        Ok(Err(error)) => {
            Err(Some(ApiError::from_commit_error(error)).filter(|fault| *fault == ApiError::CommitUnknown))
        }
        Err(_) => {
            connection.close_on_drop();
            Err(Some(ApiError::CommitUnknown))
        }
    }
}

/// Gives each the cards of its group, in the order in which they came.
fn distribute(mut sold: Vec<SoldCardRow>, batch: Vec<QueueEntry>) {
    sold.sort_unstable_by_key(|card| card.position);
    let mut groups: BTreeMap<i32, VecDeque<SoldCard>> = BTreeMap::new();
    for SoldCardRow { group_id: group, number, pin, balance, .. } in sold {
        groups.entry(group).or_default().push_back(SoldCard { number, pin, balance });
    }
    for waiting in batch {
        let cards = groups.entry(waiting.order.group_id).or_default();
        let quantity = usize::try_from(waiting.order.quantity).unwrap_or(usize::MAX).min(cards.len());
        let cards = cards.drain(..quantity).collect();
        waiting.reply(BatchOutcome::Sold(cards));
    }
}

impl QueueEntry {
    /// Who has gone away meanwhile has bought all the same, as one whose reply is lost.
    fn reply(self, outcome: BatchOutcome) {
        let _ = self.outcome_sender.send(outcome);
    }
}
