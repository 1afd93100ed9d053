//! Clients that record their requests and the replies, and repeat a request with an idempotency key until it is
//! answered.

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

use super::environment::{DEMO_SECRET_KEY, TestEnvironment};
use crate::harness::hash;

pub const CLIENT_COUNT: usize = 12;
/// The group of the first client: no other client buys from it.
pub const FIRST_OWN_GROUP: u64 = 80;
/// Longer than any server takes for a reply.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);
/// The pause after an unanswered attempt.
const RETRY_DELAY: Duration = Duration::from_millis(20);
/// The number of requests that are replayed at the end of a round.
const REPLAYS_MAX: usize = 40;

/// The effect of a request, as the audit counts it. Amounts are whole dollars, tax included.
#[derive(Debug, Clone)]
pub enum RequestKind {
    Sale {
        /// 70, which all clients share, or the client's own group.
        group: u64,
        quantity: u64,
        /// Each address is used once.
        email: Option<String>,
    },
    TopUp {
        amount: u64,
    },
    Refill {
        amount: u64,
    },
    /// Moves the funds of a card to another card or to a user.
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
    /// A request without an idempotency key is not repeated.
    pub key: Option<String>,
    /// The payment reference, which no other request has.
    pub reference: String,
    /// The body of the reply. `None`: a request without a key was not answered.
    pub reply: Option<String>,
    unanswered_attempts: usize,
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
    pub fn start(environment: &TestEnvironment, round: u64, random: &mut fastrand::Rng) -> Self {
        let shared = Arc::new(Shared {
            stop_requested: AtomicBool::new(false),
            acknowledged: watch::Sender::default(),
            unanswered: watch::Sender::default(),
        });
        let spawn_client = |number| {
            let client = SimulatedClient { number, round, random: random.fork(), ..SimulatedClient::new(environment) };
            tokio::spawn(client.run(shared.clone()))
        };
        let tasks = (0..CLIENT_COUNT).map(spawn_client).collect();
        Self { shared, tasks }
    }

    /// Waits until `more` further requests were answered.
    pub async fn wait_for_acknowledged(&self, more: usize) {
        wait_for_increase(&self.shared.acknowledged, more).await;
    }

    /// Waits until `more` further attempts got no reply.
    pub async fn wait_for_unanswered(&self, more: usize) {
        wait_for_increase(&self.shared.unanswered, more).await;
    }

    /// Stops the clients after their present requests; returns all requests.
    pub async fn finish(self) -> RequestLog {
        self.shared.stop_requested.store(true, Ordering::Relaxed);
        let mut requests = Vec::new();
        for task in self.tasks {
            requests.extend(task.await.unwrap());
        }
        RequestLog(requests)
    }
}

async fn wait_for_increase(count: &watch::Sender<usize>, more: usize) {
    let target = *count.borrow() + more;
    count.subscribe().wait_for(|count| *count >= target).await.unwrap();
}

impl RequestLog {
    pub fn counts(&self) -> RequestCounts {
        let mut counts = RequestCounts { requests: self.0.len(), ..RequestCounts::default() };
        for request in &self.0 {
            counts.acknowledged += usize::from(request.reply.is_some());
            counts.unknown_at_first += usize::from(request.unanswered_attempts > 0);
            counts.retries += request.unanswered_attempts - usize::from(request.reply.is_none());
        }
        counts
    }
}

/// The outcome of one attempt.
enum SendOutcome {
    Reply { body: String, replayed: bool },
    NoReply,
}

struct ApiClient {
    client: Client<HttpConnector, Full<Bytes>>,
    address: Arc<RwLock<SocketAddr>>,
}

impl ApiClient {
    fn new(environment: &TestEnvironment) -> Self {
        Self { client: Client::builder(TokioExecutor::new()).build_http(), address: environment.address() }
    }

    async fn send(&self, request: &SentRequest) -> SendOutcome {
        let address = *self.address.read().unwrap();
        let mut http_request = Request::post(format!("http://{address}/billing/api/{}", request.operation))
            .header("content-type", "application/x-www-form-urlencoded");
        if let Some(key) = &request.key {
            http_request = http_request.header("idempotency-key", key);
        }
        let http_request = http_request.body(Full::from(request.form.clone())).unwrap();
        let reply = async {
            let (parts, body) = self.client.request(http_request).await.ok()?.into_parts();
            Some((parts, body.collect().await.ok()?.to_bytes()))
        };
        let Some((parts, body)) = tokio::time::timeout(REPLY_TIMEOUT, reply).await.expect("reply timeout") else {
            return SendOutcome::NoReply;
        };
        let body = String::from_utf8(body.into()).unwrap();
        match parts.status {
            StatusCode::OK => SendOutcome::Reply { body, replayed: parts.headers.contains_key("idempotency-replayed") },
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::CONFLICT => SendOutcome::NoReply,
            status => panic!("{status} for {request:?}: {body}"),
        }
    }
}

struct SimulatedClient {
    number: usize,
    round: u64,
    random: fastrand::Rng,
    api_client: ApiClient,
    /// Number and PIN of each card that the client bought.
    bought_cards: Vec<(String, String)>,
    /// Ids of the cards of its caller ids.
    caller_id_card_ids: Vec<String>,
}

impl SimulatedClient {
    fn new(environment: &TestEnvironment) -> Self {
        let random = fastrand::Rng::with_seed(0);
        Self {
            number: 0,
            round: 0,
            random,
            api_client: ApiClient::new(environment),
            bought_cards: Vec::new(),
            caller_id_card_ids: Vec::new(),
        }
    }

    async fn run(mut self, shared: Arc<Shared>) -> Vec<SentRequest> {
        let mut requests = Vec::new();
        while !shared.stop_requested.load(Ordering::Relaxed) {
            let mut request = self.next_request(requests.len());
            loop {
                match self.api_client.send(&request).await {
                    SendOutcome::Reply { body, .. } => {
                        request.reply = Some(body);
                        shared.acknowledged.send_modify(|count| *count += 1);
                        break;
                    }
                    SendOutcome::NoReply => {
                        request.unanswered_attempts += 1;
                        shared.unanswered.send_modify(|count| *count += 1);
                        tokio::time::sleep(RETRY_DELAY).await;
                        if request.key.is_none() {
                            break;
                        }
                    }
                }
            }
            if request.succeeded() {
                match request.kind {
                    RequestKind::Sale { .. } => self
                        .bought_cards
                        .extend(request.element_texts("number").into_iter().zip(request.element_texts("pin"))),
                    RequestKind::TopUp { .. } | RequestKind::Transfer => {
                        self.caller_id_card_ids.extend(request.element_texts("id"))
                    }
                    _ => {}
                }
            }
            requests.push(request);
        }
        requests
    }

    /// Returns a random request. It has an idempotency key, except for an eighth of the sales. `index` is the number of
    /// requests that the client has sent.
    fn next_request(&mut self, index: usize) -> SentRequest {
        let unique = format!("{}-{}-{index}", self.round, self.number);
        let amount = self.random.u64(1..50);
        let bought_card = (!self.bought_cards.is_empty())
            .then(|| self.bought_cards[self.random.usize(..self.bought_cards.len())].clone());
        let card_id = (!self.caller_id_card_ids.is_empty())
            .then(|| self.caller_id_card_ids[self.random.usize(..self.caller_id_card_ids.len())].clone());
        // The caller id 8999 is used by all clients, the others by this one only.
        let callerid = match self.random.u32(..4) {
            0 => "8999".to_owned(),
            suffix => format!("8{:02}{suffix}", self.number),
        };
        let device = format!("900{}", self.number);
        let from = 710_000_000_000 + (self.round * 1_000 + self.number as u64) * 100_000 + index as u64 * 20;
        let group = if self.random.bool() { 70 } else { FIRST_OWN_GROUP + self.number as u64 };
        let sale = |quantity: u64, with_email: bool| {
            let email = with_email.then(|| format!("b{unique}@x.test"));
            let address = email.clone().unwrap_or_default();
            let form = format!("id={group}&quantity={quantity}&email={address}");
            let hashed = format!("{address}{group}{quantity}");
            (RequestKind::Sale { group, quantity, email }, "card_from_group_sell", form, hashed)
        };
        let (kind, operation, form, hashed) = match (self.random.u32(..20), bought_card, card_id) {
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
                let (count, last) = (20, from + 19);
                let form = format!("card_group_id=71&cards_from={from}&cards_till={last}");
                (RequestKind::CreateCards { from, count }, "calling_cards_create", form, format!("71{from}{last}"))
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
        let without_key = matches!(kind, RequestKind::Sale { .. }) && self.random.u32(..8) == 0;
        let reference = format!("ref-{unique}");
        SentRequest {
            kind,
            operation,
            form: format!("u=username&{form}&payment_ref={reference}&hash={}", hash(&hashed, DEMO_SECRET_KEY)),
            reference,
            key: (!without_key).then(|| format!("key {unique}")),
            reply: None,
            unanswered_attempts: 0,
        }
    }
}

/// Sends some of the requests with a key again, and asserts that each gets the same reply as before.
pub async fn replay_requests(environment: &TestEnvironment, request_log: &RequestLog, random: &mut fastrand::Rng) {
    let client = ApiClient::new(environment);
    let keyed: Vec<_> = request_log.0.iter().filter(|request| request.key.is_some()).collect();
    for _ in 0..REPLAYS_MAX.min(keyed.len()) {
        let request = keyed[random.usize(..keyed.len())];
        loop {
            match client.send(request).await {
                SendOutcome::Reply { body, replayed } => {
                    assert!(replayed && Some(&body) == request.reply.as_ref(), "{request:?}: {replayed}, {body}");
                    break;
                }
                SendOutcome::NoReply => tokio::time::sleep(RETRY_DELAY).await,
            }
        }
    }
}
