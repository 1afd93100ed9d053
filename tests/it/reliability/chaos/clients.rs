//! Clients that remember what they asked for and what they were told, and ask again until they are told something.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::world::{KEY, World};
use crate::harness::hash;

const CLIENTS: usize = 12;
/// No server keeps a client waiting so long.
const LONGEST: Duration = Duration::from_secs(30);
/// Between a request that was answered with nothing and the next try.
const PAUSE: Duration = Duration::from_millis(20);
/// How many old requests are sent once more when all is over.
const AGAIN: usize = 40;

/// What a request asks for, as the auditor counts it. Amounts are whole dollars, tax included.
#[derive(Debug, Clone)]
pub enum What {
    Sale {
        quantity: u64,
        /// Used once.
        email: Option<String>,
    },
    TopUp {
        amount: u64,
    },
    Refill {
        amount: u64,
    },
    /// Funds from one place to another.
    Move,
    Make {
        from: u64,
        count: u64,
    },
    Group {
        name: String,
    },
    Tariff {
        name: String,
    },
    Rename,
}

#[derive(Debug, Clone)]
pub struct Asked {
    pub what: What,
    operation: &'static str,
    form: String,
    /// Without one nobody may ask twice.
    pub key: Option<String>,
    /// The last word. `None`: there was none, and without a key there can't be one.
    pub reply: Option<String>,
    unknown: usize,
}

impl Asked {
    pub fn succeeded(&self) -> bool {
        self.reply.as_ref().is_some_and(|reply| !reply.contains("<error>"))
    }

    pub fn all(&self, element: &str) -> Vec<String> {
        let (open, close) = (format!("<{element}>"), format!("</{element}>"));
        let reply = self.reply.as_deref().unwrap_or_default();
        reply.split(&open).skip(1).map(|rest| rest.split(&close).next().unwrap().to_owned()).collect()
    }
}

#[derive(Debug, Default, Clone, Copy)]
pub struct Figures {
    pub requests: usize,
    pub acknowledged: usize,
    pub unknown: usize,
    pub again: usize,
}

impl Figures {
    pub fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.acknowledged += other.acknowledged;
        self.unknown += other.unknown;
        self.again += other.again;
    }
}

pub struct Clients {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<Vec<Asked>>>,
}

struct Shared {
    finish: AtomicBool,
    acknowledged: watch::Sender<usize>,
    unknown: watch::Sender<usize>,
}

pub struct Remembered(pub Vec<Asked>);

impl Clients {
    pub fn start(world: &World, round: u64, random: &mut fastrand::Rng) -> Self {
        let shared = Arc::new(Shared {
            finish: AtomicBool::new(false),
            acknowledged: watch::Sender::default(),
            unknown: watch::Sender::default(),
        });
        let one = |number| {
            let shopper = Shopper { number, round, random: random.fork(), ..Shopper::new(world) };
            tokio::spawn(shopper.shop(shared.clone()))
        };
        let tasks = (0..CLIENTS).map(one).collect();
        Self { shared, tasks }
    }

    /// Until so many more requests were answered.
    pub async fn until_acknowledged(&self, more: usize) {
        grows(&self.shared.acknowledged, more).await;
    }

    /// Until so many more were not.
    pub async fn until_unknown(&self, more: usize) {
        grows(&self.shared.unknown, more).await;
    }

    /// No new requests; those that are under way get their answers.
    pub async fn finish(self) -> Remembered {
        self.shared.finish.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for task in self.tasks {
            all.extend(task.await.unwrap());
        }
        Remembered(all)
    }
}

async fn grows(count: &watch::Sender<usize>, more: usize) {
    let wanted = *count.borrow() + more;
    count.subscribe().wait_for(|count| *count >= wanted).await.unwrap();
}

impl Remembered {
    pub fn figures(&self) -> Figures {
        let mut figures = Figures { requests: self.0.len(), ..Figures::default() };
        for asked in &self.0 {
            figures.acknowledged += usize::from(asked.reply.is_some());
            figures.unknown += usize::from(asked.unknown > 0);
            figures.again += asked.unknown - usize::from(asked.reply.is_none());
        }
        figures
    }
}

/// What comes of one try.
enum Told {
    Reply { body: String, replayed: bool },
    Nothing,
}

struct Line {
    client: Client<HttpConnector, Full<Bytes>>,
    address: Arc<RwLock<SocketAddr>>,
}

impl Line {
    fn new(world: &World) -> Self {
        Self { client: Client::builder(TokioExecutor::new()).build_http(), address: world.address() }
    }

    async fn send(&self, asked: &Asked) -> Told {
        let address = *self.address.read().unwrap();
        let mut request = Request::post(format!("http://{address}/billing/api/{}", asked.operation))
            .header("content-type", "application/x-www-form-urlencoded");
        if let Some(key) = &asked.key {
            request = request.header("idempotency-key", key);
        }
        let request = request.body(Full::from(asked.form.clone())).unwrap();
        let answer = async {
            let (parts, body) = self.client.request(request).await.ok()?.into_parts();
            Some((parts, body.collect().await.ok()?.to_bytes()))
        };
        let Some((parts, body)) = tokio::time::timeout(LONGEST, answer).await.expect("nobody waits so long") else {
            return Told::Nothing;
        };
        let body = String::from_utf8(body.into()).unwrap();
        match parts.status {
            StatusCode::OK => Told::Reply { body, replayed: parts.headers.contains_key("idempotency-replayed") },
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::CONFLICT => Told::Nothing,
            status => panic!("{status} to {asked:?}: {body}"),
        }
    }
}

struct Shopper {
    number: usize,
    round: u64,
    random: fastrand::Rng,
    line: Line,
    /// Numbers and PINs of cards that it bought, and ids of cards of its caller ids.
    bought: Vec<(String, String)>,
    cards: Vec<String>,
}

impl Shopper {
    fn new(world: &World) -> Self {
        let random = fastrand::Rng::with_seed(0);
        Self { number: 0, round: 0, random, line: Line::new(world), bought: Vec::new(), cards: Vec::new() }
    }

    async fn shop(mut self, shared: Arc<Shared>) -> Vec<Asked> {
        let mut all = Vec::new();
        while !shared.finish.load(Ordering::Relaxed) {
            let mut asked = self.wish(all.len());
            loop {
                match self.line.send(&asked).await {
                    Told::Reply { body, .. } => {
                        asked.reply = Some(body);
                        shared.acknowledged.send_modify(|count| *count += 1);
                        break;
                    }
                    Told::Nothing => {
                        asked.unknown += 1;
                        shared.unknown.send_modify(|count| *count += 1);
                        tokio::time::sleep(PAUSE).await;
                        if asked.key.is_none() {
                            break;
                        }
                    }
                }
            }
            if asked.succeeded() {
                match asked.what {
                    What::Sale { .. } => self.bought.extend(asked.all("number").into_iter().zip(asked.all("pin"))),
                    What::TopUp { .. } | What::Move => self.cards.extend(asked.all("id")),
                    _ => {}
                }
            }
            all.push(asked);
        }
        all
    }

    /// Something that the client wants, with a key unless it is careless.
    fn wish(&mut self, count: usize) -> Asked {
        let unique = format!("{}-{}-{count}", self.round, self.number);
        let amount = self.random.u64(1..50);
        let bought = (!self.bought.is_empty()).then(|| self.bought[self.random.usize(..self.bought.len())].clone());
        let card = (!self.cards.is_empty()).then(|| self.cards[self.random.usize(..self.cards.len())].clone());
        // Its own, or one that everybody uses.
        let callerid = match self.random.u32(..4) {
            0 => "8999".to_owned(),
            own => format!("8{:02}{own}", self.number),
        };
        let device = format!("900{}", self.number);
        let from = 710_000_000_000 + (self.round * 1_000 + self.number as u64) * 100_000 + count as u64 * 20;
        let sale = |quantity: u64, with_email: bool| {
            let email = with_email.then(|| format!("b{unique}@x.test"));
            let address = email.clone().unwrap_or_default();
            let form = format!("id=70&quantity={quantity}&email={address}");
            (What::Sale { quantity, email }, "card_from_group_sell", form, format!("{address}70{quantity}"))
        };
        let (what, operation, form, hashed) = match (self.random.u32(..20), bought, card) {
            (0 | 1, Some((number, _)), _) => (
                What::TopUp { amount },
                "card_payment_add",
                format!("number={number}&amount={amount}"),
                format!("{number}{amount}"),
            ),
            (2..=4, _, _) => (
                What::TopUp { amount },
                "card_by_cli_update",
                format!("callerid={callerid}&amount={amount}&cardgroup_id=70"),
                format!("{amount}{callerid}70"),
            ),
            (5, _, _) => (
                What::Refill { amount },
                "card_by_cli_update",
                format!("callerid={device}&amount={amount}"),
                format!("{amount}{device}"),
            ),
            (6 | 7, Some((_, pin)), _) => {
                let callerid = if self.random.bool() { callerid } else { device };
                (What::Move, "card_by_cli_update", format!("callerid={callerid}&pin={pin}"), format!("{pin}{callerid}"))
            }
            (8, _, _) => {
                let (count, till) = (20, from + 19);
                let form = format!("card_group_id=71&cards_from={from}&cards_till={till}");
                (What::Make { from, count }, "calling_cards_create", form, format!("71{from}{till}"))
            }
            (9, _, _) => {
                let name = format!("group {unique}");
                (What::Group { name: name.clone() }, "cc_group_create", format!("name={name}"), name)
            }
            (10, _, _) => {
                let name = format!("tariff {unique}");
                (What::Tariff { name: name.clone() }, "tariff_wholesale_update", format!("name={name}"), name)
            }
            (11, _, Some(id)) => (What::Rename, "calling_card_update", format!("card_id={id}&name={unique}"), id),
            _ => sale(self.random.u64(1..4), self.random.u32(..3) == 0),
        };
        let careless = matches!(what, What::Sale { .. }) && self.random.u32(..8) == 0;
        Asked {
            what,
            operation,
            form: format!("u=username&{form}&hash={}", hash(&hashed, KEY)),
            key: (!careless).then(|| format!("key {unique}")),
            reply: None,
            unknown: 0,
        }
    }
}

/// Sends some of the requests once more: they are answered as they were, whatever happened since.
pub async fn ask_again(world: &World, remembered: &Remembered, random: &mut fastrand::Rng) {
    let line = Line::new(world);
    let keyed: Vec<_> = remembered.0.iter().filter(|asked| asked.key.is_some()).collect();
    for _ in 0..AGAIN.min(keyed.len()) {
        let asked = keyed[random.usize(..keyed.len())];
        loop {
            match line.send(asked).await {
                Told::Reply { body, replayed } => {
                    assert!(replayed && Some(&body) == asked.reply.as_ref(), "{asked:?}: {replayed}, {body}");
                    break;
                }
                Told::Nothing => tokio::time::sleep(PAUSE).await,
            }
        }
    }
}
