//! Sales that go together. As many as keep the processors busy are made each by itself, at once; those that come meanwhile wait for one
//! of these to end, and are then made in one statement, which costs little more than a single sale. Each of them succeeds or fails as if
//! it were alone.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bigdecimal::BigDecimal;
use tokio::runtime::Handle;
use tokio::sync::oneshot::{self, Receiver, Sender};
use tokio::time::timeout;

use super::sale::{self, SoldCard, SoldOf};
use crate::database::pool::Pool;
use crate::fault::Fault;

/// More cards than this are not sold by one statement: those who wait for it want an answer.
pub const MOST_CARDS: u32 = 32;

/// Where sales wait for each other.
#[derive(Debug, Clone)]
pub struct Together(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    pool: Pool,
    most: usize,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    running: usize,
    waiting: VecDeque<Waiting>,
    /// How many have waited until now.
    tickets: u64,
}

#[derive(Debug)]
struct Waiting {
    ticket: u64,
    order: Order,
    answer: Sender<Outcome>,
}

/// The next free cards of a group, without order rows and without an idempotency key.
#[derive(Debug)]
pub struct Order {
    /// The group.
    pub group: i32,
    /// How many, up to [`MOST_CARDS`].
    pub quantity: u32,
    /// Who sells, and how it is paid.
    pub alike: Alike,
}

/// What sales that go together have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "as in `Sale` and `Terms`")]
pub struct Alike {
    pub caller: i32,
    pub owner: i32,
    pub currency: Option<String>,
    pub rate: BigDecimal,
    pub shown_rate: BigDecimal,
}

/// How a sale is made.
#[derive(Debug)]
pub enum Way {
    /// By itself, while this is held.
    Alone(Place),
    /// With others.
    With(Others),
}

/// The others, while they are waited for.
#[derive(Debug)]
pub struct Others {
    together: Together,
    ticket: u64,
    told: Receiver<Outcome>,
}

impl Others {
    /// What comes of it, if it is begun before patience ends; once begun it is waited for.
    pub async fn outcome(mut self, patience: Duration) -> Outcome {
        let told = match timeout(patience, &mut self.told).await {
            Ok(told) => told,
            Err(_) if self.together.leave(self.ticket) => return Outcome::Refused(Fault::Unavailable),
            Err(_) => self.told.await,
        };
        // Whoever was about to tell was broken off.
        told.unwrap_or(Outcome::Refused(Fault::OutcomeUnknown))
    }
}

/// What came of a sale that went with others.
#[derive(Debug)]
pub enum Outcome {
    /// The cards; none: fewer were free than asked for.
    Sold(Vec<SoldCard>),
    /// Nothing was changed, and one of the others may be the reason.
    Undone,
    /// The database was away, or was lost.
    Refused(Fault),
}

impl Together {
    /// At most so many statements at once before sales go together.
    pub fn new(pool: Pool, most: usize) -> Self {
        Self(Arc::new(Shared { pool, most, queue: Mutex::default() }))
    }

    /// Begins a sale.
    pub fn begin(&self, order: impl FnOnce() -> Order) -> Way {
        let mut queue = self.queue();
        if queue.running < self.0.most {
            queue.running += 1;
            return Way::Alone(Place(self.clone()));
        }
        let (answer, told) = oneshot::channel();
        let ticket = queue.tickets;
        queue.tickets += 1;
        queue.waiting.push_back(Waiting { ticket, order: order(), answer });
        Way::With(Others { together: self.clone(), ticket, told })
    }

    /// How many wait for a statement.
    pub fn waiting(&self) -> usize {
        self.queue().waiting.len()
    }

    /// Whether who has the ticket was still waiting, and doesn't any more.
    fn leave(&self, ticket: u64) -> bool {
        let mut queue = self.queue();
        let place = queue.waiting.iter().position(|waiting| waiting.ticket == ticket);
        place.and_then(|place| queue.waiting.remove(place)).is_some()
    }

    /// Those who are next, where there is somebody; else one statement less runs.
    fn next(&self) -> Vec<Waiting> {
        let mut queue = self.queue();
        let batch = queue.batch();
        if batch.is_empty() {
            queue.running -= 1;
        }
        batch
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of the statements that run. When it has ended, those who wait are next.
#[derive(Debug)]
pub struct Place(Together);

impl Drop for Place {
    fn drop(&mut self) {
        let batch = self.0.next();
        // Without a runtime, at the very end, nobody waits any more.
        if let (false, Ok(runtime)) = (batch.is_empty(), Handle::try_current()) {
            runtime.spawn(sell(Self(self.0.clone()), batch));
        }
    }
}

impl Queue {
    /// Those who wait longest and go together. Who went away is forgotten.
    fn batch(&mut self) -> Vec<Waiting> {
        self.waiting.retain(|waiting| !waiting.answer.is_closed());
        let Some(first) = self.waiting.pop_front() else { return Vec::new() };
        let (mut cards, mut batch, mut left) = (first.order.quantity, vec![first], VecDeque::new());
        for waiting in self.waiting.drain(..) {
            let fits = cards + waiting.order.quantity <= MOST_CARDS && waiting.order.alike == batch[0].order.alike;
            if fits {
                cards += waiting.order.quantity;
                batch.push(waiting);
            } else {
                left.push_back(waiting);
            }
        }
        self.waiting = left;
        batch
    }
}

/// Makes sales together, and tells each what came of it.
async fn sell(place: Place, batch: Vec<Waiting>) {
    // In one order for all statements, so that none waits for another that waits for it.
    let mut groups = BTreeMap::new();
    for Waiting { order, .. } in &batch {
        *groups.entry(order.group).or_insert(0) += i64::from(order.quantity);
    }
    let sold = carry_out(&place.0.0.pool, &batch[0].order.alike, &groups).await;
    // Before anybody is told: who is served next needn't wait for it.
    drop(place);
    match sold {
        Ok(sold) => hand_out(sold, batch),
        Err(Some(fault)) => batch.into_iter().for_each(|waiting| waiting.tell(Outcome::Refused(fault.clone()))),
        Err(None) => batch.into_iter().for_each(|waiting| waiting.tell(Outcome::Undone)),
    }
}

/// The cards, or what everybody hears; `None`: each should try it alone.
async fn carry_out(pool: &Pool, alike: &Alike, groups: &BTreeMap<i32, i64>) -> Result<Vec<SoldOf>, Option<Fault>> {
    let mut connection = pool.acquire().await.map_err(|error| Some(Fault::from(error)))?;
    match sale::sell_together(&mut connection, alike, groups).await {
        Ok(sold) => {
            connection.keep();
            Ok(sold)
        }
        Err(error) => Err(Some(Fault::of_commit(error)).filter(|fault| *fault == Fault::OutcomeUnknown)),
    }
}

/// Gives each the cards of its group, in the order in which they came.
fn hand_out(sold: Vec<SoldOf>, batch: Vec<Waiting>) {
    let mut groups: BTreeMap<i32, VecDeque<SoldCard>> = BTreeMap::new();
    for SoldOf { group, number, pin, balance } in sold {
        groups.entry(group).or_default().push_back(SoldCard { number, pin, balance });
    }
    for waiting in batch {
        let cards = groups.entry(waiting.order.group).or_default();
        let quantity = usize::try_from(waiting.order.quantity).unwrap_or(usize::MAX).min(cards.len());
        let cards = cards.drain(..quantity).collect();
        waiting.tell(Outcome::Sold(cards));
    }
}

impl Waiting {
    /// Who has gone away meanwhile has bought all the same, as one whose reply is lost.
    fn tell(self, outcome: Outcome) {
        let _ = self.answer.send(outcome);
    }
}
