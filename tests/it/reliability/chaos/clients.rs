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

use super::world::{DEMO_SECRET_KEY, TestEnvironment};
use crate::harness::hash;

const CLIENT_COUNT: usize = 12;
/// No server keeps a client waiting so long.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);
/// Between a request that was answered with nothing and the next try.
const RETRY_DELAY: Duration = Duration::from_millis(20);
/// How many old requests are sent once more when all is over.
const REPLAYS_MAX: usize = 40;

/// What a request asks for, as the auditor counts it. Amounts are whole dollars, tax included.
#[derive(Debug, Clone)]
pub enum RequestKind {
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
    Transfer,
    CreateCards {
        from: u64,
        count: u64,
    },
    CreateGroup {
        name: String,
    },
    CreateTariff {
        name: String,
    },
    RenameCard,
}

#[derive(Debug, Clone)]
pub struct SentRequest {
    pub kind: RequestKind,
    operation: &'static str,
    form: String,
    /// Without one nobody may ask twice.
    pub key: Option<String>,
    /// The last word. `None`: there was none, and without a key there can't be one.
    pub reply: Option<String>,
    unanswered_tries: usize,
}

impl SentRequest {
    pub fn succeeded(&self) -> bool {
        self.reply.as_ref().is_some_and(|reply| !reply.contains("<error>"))
    }

    pub fn element_texts(&self, element: &str) -> Vec<String> {
        let (open, close) = (format!("<{element}>"), format!("</{element}>"));
        let reply = self.reply.as_deref().unwrap_or_default();
        reply.split(&open).skip(1).map(|rest| rest.split(&close).next().unwrap().to_owned()).collect()
    }
}

#[derive(Debug, Default, Clone, Copy)]
pub struct RequestCounts {
    pub requests: usize,
    pub acknowledged: usize,
    pub unknown_at_first: usize,
    pub retries: usize,
}

impl RequestCounts {
    pub fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.acknowledged += other.acknowledged;
        self.unknown_at_first += other.unknown_at_first;
        self.retries += other.retries;
    }
}

pub struct Clients {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<Vec<SentRequest>>>,
}

struct Shared {
    stop_requested: AtomicBool,
    acknowledged: watch::Sender<usize>,
    unanswered: watch::Sender<usize>,
}

pub struct RequestLog(pub Vec<SentRequest>);

impl Clients {
    pub fn start(world: &TestEnvironment, round: u64, random: &mut fastrand::Rng) -> Self {
        let shared = Arc::new(Shared {
            stop_requested: AtomicBool::new(false),
            acknowledged: watch::Sender::default(),
            unanswered: watch::Sender::default(),
        });
        let one = |number| {
            let shopper = SimulatedClient { number, round, random: random.fork(), ..SimulatedClient::new(world) };
            tokio::spawn(shopper.run(shared.clone()))
        };
        let tasks = (0..CLIENT_COUNT).map(one).collect();
        Self { shared, tasks }
    }

    /// Until so many more requests were answered.
    pub async fn wait_for_acknowledged(&self, more: usize) {
        wait_for_increase(&self.shared.acknowledged, more).await;
    }

    /// Until so many more were not.
    pub async fn wait_for_unanswered(&self, more: usize) {
        wait_for_increase(&self.shared.unanswered, more).await;
    }

    /// No new requests; those that are under way get their answers.
    pub async fn finish(self) -> RequestLog {
        self.shared.stop_requested.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for task in self.tasks {
            all.extend(task.await.unwrap());
        }
        RequestLog(all)
    }
}

async fn wait_for_increase(count: &watch::Sender<usize>, more: usize) {
    let wanted = *count.borrow() + more;
    count.subscribe().wait_for(|count| *count >= wanted).await.unwrap();
}

impl RequestLog {
    pub fn counts(&self) -> RequestCounts {
        let mut figures = RequestCounts { requests: self.0.len(), ..RequestCounts::default() };
        for asked in &self.0 {
            figures.acknowledged += usize::from(asked.reply.is_some());
            figures.unknown_at_first += usize::from(asked.unanswered_tries > 0);
            figures.retries += asked.unanswered_tries - usize::from(asked.reply.is_none());
        }
        figures
    }
}

/// What comes of one try.
enum SendOutcome {
    Reply { body: String, replayed: bool },
    NoReply,
}

struct ApiClient {
    client: Client<HttpConnector, Full<Bytes>>,
    address: Arc<RwLock<SocketAddr>>,
}

impl ApiClient {
    fn new(world: &TestEnvironment) -> Self {
        Self { client: Client::builder(TokioExecutor::new()).build_http(), address: world.address() }
    }

    async fn send(&self, asked: &SentRequest) -> SendOutcome {
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
        let Some((parts, body)) = tokio::time::timeout(REPLY_TIMEOUT, answer).await.expect("nobody waits so long")
        else {
            return SendOutcome::NoReply;
        };
        let body = String::from_utf8(body.into()).unwrap();
        match parts.status {
            StatusCode::OK => SendOutcome::Reply { body, replayed: parts.headers.contains_key("idempotency-replayed") },
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::CONFLICT => SendOutcome::NoReply,
            status => panic!("{status} to {asked:?}: {body}"),
        }
    }
}

struct SimulatedClient {
    number: usize,
    round: u64,
    random: fastrand::Rng,
    api_client: ApiClient,
    /// Numbers and PINs of cards that it bought, and ids of cards of its caller ids.
    bought_cards: Vec<(String, String)>,
    caller_id_card_ids: Vec<String>,
}

impl SimulatedClient {
    fn new(world: &TestEnvironment) -> Self {
        let random = fastrand::Rng::with_seed(0);
        Self {
            number: 0,
            round: 0,
            random,
            api_client: ApiClient::new(world),
            bought_cards: Vec::new(),
            caller_id_card_ids: Vec::new(),
        }
    }

    async fn run(mut self, shared: Arc<Shared>) -> Vec<SentRequest> {
        let mut all = Vec::new();
        while !shared.stop_requested.load(Ordering::Relaxed) {
            let mut asked = self.next_request(all.len());
            loop {
                match self.api_client.send(&asked).await {
                    SendOutcome::Reply { body, .. } => {
                        asked.reply = Some(body);
                        shared.acknowledged.send_modify(|count| *count += 1);
                        break;
                    }
                    SendOutcome::NoReply => {
                        asked.unanswered_tries += 1;
                        shared.unanswered.send_modify(|count| *count += 1);
                        tokio::time::sleep(RETRY_DELAY).await;
                        if asked.key.is_none() {
                            break;
                        }
                    }
                }
            }
            if asked.succeeded() {
                match asked.kind {
                    RequestKind::Sale { .. } => self
                        .bought_cards
                        .extend(asked.element_texts("number").into_iter().zip(asked.element_texts("pin"))),
                    RequestKind::TopUp { .. } | RequestKind::Transfer => {
                        self.caller_id_card_ids.extend(asked.element_texts("id"))
                    }
                    _ => {}
                }
            }
            all.push(asked);
        }
        all
    }

    /// Something that the client wants, with a key unless it is careless.
    fn next_request(&mut self, count: usize) -> SentRequest {
        let unique = format!("{}-{}-{count}", self.round, self.number);
        let amount = self.random.u64(1..50);
        let bought = (!self.bought_cards.is_empty())
            .then(|| self.bought_cards[self.random.usize(..self.bought_cards.len())].clone());
        let card = (!self.caller_id_card_ids.is_empty())
            .then(|| self.caller_id_card_ids[self.random.usize(..self.caller_id_card_ids.len())].clone());
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
            (RequestKind::Sale { quantity, email }, "card_from_group_sell", form, format!("{address}70{quantity}"))
        };
        let (what, operation, form, hashed) = match (self.random.u32(..20), bought, card) {
            (0 | 1, Some((number, _)), _) => (
                RequestKind::TopUp { amount },
                "card_payment_add",
                format!("number={number}&amount={amount}"),
                format!("{number}{amount}"),
            ),
            (2..=4, _, _) => (
                RequestKind::TopUp { amount },
                "card_by_cli_update",
                format!("callerid={callerid}&amount={amount}&cardgroup_id=70"),
                format!("{amount}{callerid}70"),
            ),
            (5, _, _) => (
                RequestKind::Refill { amount },
                "card_by_cli_update",
                format!("callerid={device}&amount={amount}"),
                format!("{amount}{device}"),
            ),
            (6 | 7, Some((_, pin)), _) => {
                let callerid = if self.random.bool() { callerid } else { device };
                (
                    RequestKind::Transfer,
                    "card_by_cli_update",
                    format!("callerid={callerid}&pin={pin}"),
                    format!("{pin}{callerid}"),
                )
            }
            (8, _, _) => {
                let (count, till) = (20, from + 19);
                let form = format!("card_group_id=71&cards_from={from}&cards_till={till}");
                (RequestKind::CreateCards { from, count }, "calling_cards_create", form, format!("71{from}{till}"))
            }
            (9, _, _) => {
                let name = format!("group {unique}");
                (RequestKind::CreateGroup { name: name.clone() }, "cc_group_create", format!("name={name}"), name)
            }
            (10, _, _) => {
                let name = format!("tariff {unique}");
                (
                    RequestKind::CreateTariff { name: name.clone() },
                    "tariff_wholesale_update",
                    format!("name={name}"),
                    name,
                )
            }
            (11, _, Some(id)) => {
                (RequestKind::RenameCard, "calling_card_update", format!("card_id={id}&name={unique}"), id)
            }
            _ => sale(self.random.u64(1..4), self.random.u32(..3) == 0),
        };
        let careless = matches!(what, RequestKind::Sale { .. }) && self.random.u32(..8) == 0;
        SentRequest {
            kind: what,
            operation,
            form: format!("u=username&{form}&hash={}", hash(&hashed, DEMO_SECRET_KEY)),
            key: (!careless).then(|| format!("key {unique}")),
            reply: None,
            unanswered_tries: 0,
        }
    }
}

/// Sends some of the requests once more: they are answered as they were, whatever happened since.
pub async fn replay_requests(world: &TestEnvironment, remembered: &RequestLog, random: &mut fastrand::Rng) {
    let line = ApiClient::new(world);
    let keyed: Vec<_> = remembered.0.iter().filter(|asked| asked.key.is_some()).collect();
    for _ in 0..REPLAYS_MAX.min(keyed.len()) {
        let asked = keyed[random.usize(..keyed.len())];
        loop {
            match line.send(asked).await {
                SendOutcome::Reply { body, replayed } => {
                    assert!(replayed && Some(&body) == asked.reply.as_ref(), "{asked:?}: {replayed}, {body}");
                    break;
                }
                SendOutcome::NoReply => tokio::time::sleep(RETRY_DELAY).await,
            }
        }
    }
}
