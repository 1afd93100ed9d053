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

use super::batch_statement::{Orders, SoldOf, sell_together};
use super::statement::SoldCard;
use crate::db::pool::Pool;
use crate::error::Fault;
use crate::idempotency::{self, Key};

/// More cards are not sold by one statement: those who wait for it want an answer.
const MOST_CARDS: u32 = 32;
/// Who wants more goes alone: few others would find room beside him.
pub const MOST_OF_ONE: u32 = MOST_CARDS / 4;
/// Longer than the database lets any statement run: when this is over the connection is dead.
const DEAD: Duration = Duration::from_secs(150);

/// Where sales wait for each other.
#[derive(Debug, Clone)]
pub struct Together(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    pool: Pool,
    /// Of one caller's, before others wait.
    most: usize,
    patience: Duration,
    queues: Mutex<Queues>,
}

#[derive(Debug, Default)]
struct Queues {
    /// By the caller's id, where something of his runs.
    of: HashMap<i32, Queue>,
    /// How many have waited until now.
    tickets: u64,
}

#[derive(Debug, Default)]
struct Queue {
    /// Statements.
    running: usize,
    /// The sales that these make.
    sales: usize,
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    ticket: u64,
    order: Order,
    answer: Sender<Outcome>,
}

/// The next free cards of a group, without order rows.
#[derive(Debug)]
pub struct Order {
    /// The group.
    pub group: i32,
    /// How many, up to [`MOST_OF_ONE`].
    pub quantity: u32,
    /// Where the reply is kept, if somewhere. Once this is begun, whoever sends the key again waits for it, even if its client has gone away.
    pub key: Option<Arc<Key>>,
    /// Who sells, and how it is paid.
    pub alike: Alike,
}

/// What sales that go together have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "as in `Sale` and `Terms`")]
pub struct Alike {
    pub caller: i32,
    pub owner: i32,
    pub currency: String,
    pub rate: BigDecimal,
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
    caller: i32,
    ticket: u64,
    told: Receiver<Outcome>,
}

impl Others {
    /// What comes of it. Where it isn't begun soon, because what runs is held up, it is left alone; once begun it is waited for.
    pub async fn outcome(mut self) -> Outcome {
        let told = match timeout(self.together.0.patience, &mut self.told).await {
            Ok(told) => told,
            Err(_) if self.together.leave(self.caller, self.ticket) => return Outcome::Undone,
            Err(_) => (&mut self.told).await,
        };
        // Whoever was about to tell was broken off.
        told.unwrap_or(Outcome::Refused(Fault::OutcomeUnknown))
    }
}

/// Who goes away before it is begun leaves nothing behind, his key neither: he may ask again at once.
impl Drop for Others {
    fn drop(&mut self) {
        self.together.leave(self.caller, self.ticket);
    }
}

/// What came of a sale that went with others.
#[derive(Debug)]
pub enum Outcome {
    /// The cards; none: fewer were free than asked for.
    Sold(Vec<SoldCard>),
    /// Nothing was changed, and one of the others may be the reason: it is to be made alone.
    Undone,
    /// The database was away, or was lost.
    Refused(Fault),
}

impl Together {
    /// At most so many statements of a caller's at once before his sales go together, then half as many; no sale waits longer than `patience`
    /// to be begun.
    pub fn new(pool: Pool, most: usize, patience: Duration) -> Self {
        Self(Arc::new(Shared { pool, most, patience, queues: Mutex::default() }))
    }

    /// Begins a sale of a caller's.
    pub fn begin(&self, caller: i32, order: impl FnOnce() -> Order) -> Way {
        let mut queues = self.queues();
        let Queues { of, tickets } = &mut *queues;
        let queue = of.entry(caller).or_default();
        if queue.has_room(self.0.most) {
            return Way::Alone(queue.place(self, caller, 1));
        }
        let (answer, told) = oneshot::channel();
        let ticket = *tickets;
        *tickets += 1;
        queue.waiting.push_back(Waiting { ticket, order: order(), answer });
        Way::With(Others { together: self.clone(), caller, ticket, told })
    }

    /// How many wait for a statement.
    pub fn waiting(&self) -> usize {
        self.queues().of.values().map(|queue| queue.waiting.len()).sum()
    }

    /// Whether who has the ticket was still waiting, and doesn't any more.
    fn leave(&self, caller: i32, ticket: u64) -> bool {
        let mut queues = self.queues();
        let Some(Queue { waiting, .. }) = queues.of.get_mut(&caller) else { return false };
        // Tickets stand in their order.
        waiting
            .binary_search_by_key(&ticket, |waiting| waiting.ticket)
            .is_ok_and(|place| waiting.remove(place).is_some())
    }

    /// A statement that made so many sales has ended.
    fn ended(&self, caller: i32, sales: usize) {
        if let Some(queue) = self.queues().of.get_mut(&caller) {
            queue.running -= 1;
            queue.sales -= sales;
        }
    }

    /// Those who are next, where there is somebody and room for them.
    fn next(&self, caller: i32) -> Option<(Place, Vec<Waiting>)> {
        let mut queues = self.queues();
        let queue = queues.of.get_mut(&caller)?;
        let batch = if queue.has_room(self.0.most) { queue.batch() } else { Vec::new() };
        if !batch.is_empty() {
            return Some((queue.place(self, caller, batch.len()), batch));
        }
        if queue.running == 0 {
            queues.of.remove(&caller);
        }
        None
    }

    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.0.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of the statements that run. When it has ended, those who wait are next.
#[derive(Debug)]
pub struct Place {
    together: Together,
    caller: i32,
    /// So many it makes.
    sales: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.together.ended(self.caller, self.sales);
        // Without a runtime, at the very end, nobody waits any more.
        let Ok(runtime) = Handle::try_current() else { return };
        // Those who are too different to go together go beside each other.
        while let Some((place, batch)) = self.together.next(self.caller) {
            runtime.spawn(sell(place, batch));
        }
    }
}

impl Queue {
    /// Whether one more may run, beside so many at most.
    fn has_room(&self, most: usize) -> bool {
        let each_for_one = self.sales == self.running;
        self.running < if each_for_one { most } else { most.div_ceil(2) }
    }

    fn place(&mut self, together: &Together, caller: i32, sales: usize) -> Place {
        self.running += 1;
        self.sales += sales;
        Place { together: together.clone(), caller, sales }
    }

    /// Those who wait longest and go together.
    fn batch(&mut self) -> Vec<Waiting> {
        let (mut cards, mut batch, mut others) = (0, Vec::<Waiting>::new(), Vec::new());
        while cards < MOST_CARDS
            && let Some(next) = self.waiting.pop_front()
        {
            let is_alike = batch.first().is_none_or(|first| first.order.alike == next.order.alike);
            if is_alike && cards + next.order.quantity <= MOST_CARDS {
                cards += next.order.quantity;
                batch.push(next);
            } else {
                others.push(next);
            }
        }
        others.into_iter().rev().for_each(|other| self.waiting.push_front(other));
        batch
    }
}

/// Makes sales together, and tells each what came of it.
async fn sell(place: Place, batch: Vec<Waiting>) {
    let sold = carry_out(&place.together.0.pool, &batch).await;
    // Before anybody is told: who is served next needn't wait for it.
    drop(place);
    match sold {
        Ok(sold) => hand_out(sold, batch),
        Err(Some(fault)) => batch.into_iter().for_each(|waiting| waiting.tell(Outcome::Refused(fault.clone()))),
        Err(None) => batch.into_iter().for_each(|waiting| waiting.tell(Outcome::Undone)),
    }
}

/// The cards, or what everybody hears; `None`: each should try it alone.
async fn carry_out(pool: &Pool, batch: &[Waiting]) -> Result<Vec<SoldOf>, Option<Fault>> {
    let mut orders = Orders::default();
    orders.extend(batch.iter().map(|waiting| &waiting.order));
    let mut connection = pool.acquire().await.map_err(|error| Some(Fault::from(error)))?;
    // A request's client ends what hangs by going away; here there is none.
    match timeout(DEAD, sell_together(&mut connection, &batch[0].order.alike, &orders)).await {
        Ok(Ok(sold)) => {
            connection.keep();
            Ok(sold)
        }
        // Whoever sent a key again, or is at it elsewhere, finds out alone; it isn't worth a line in the log.
        Ok(Err(error)) if idempotency::is_known(&error) || idempotency::is_waited_for_in_vain(&error) => Err(None),
        Ok(Err(error)) => Err(Some(Fault::of_commit(error)).filter(|fault| *fault == Fault::OutcomeUnknown)),
        Err(_) => {
            connection.close_on_drop();
            Err(Some(Fault::OutcomeUnknown))
        }
    }
}

/// Gives each the cards of its group, in the order in which they came.
fn hand_out(mut sold: Vec<SoldOf>, batch: Vec<Waiting>) {
    sold.sort_unstable_by_key(|card| card.place);
    let mut groups: BTreeMap<i32, VecDeque<SoldCard>> = BTreeMap::new();
    for SoldOf { group, number, pin, balance, .. } in sold {
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
